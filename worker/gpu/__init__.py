"""The GPU process: the parent's side (`process.py`), the child's (`child.py`), what they say to each other
(`messages.py`) and what the child does. Only what the child imports may reach `ml/` and torch.
"""
