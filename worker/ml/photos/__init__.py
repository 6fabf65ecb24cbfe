"""Photos of any kind, read from files: opened, turned upright, converted to sRGB; for training, fitted to sizes."""
