"""A started job as a handler sees it: its row, its lease, and the wording of its prompts and captions."""
