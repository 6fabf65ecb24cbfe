"""What a demo run shows on the terminal and leaves in its output folder."""
