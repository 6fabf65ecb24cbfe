"""Photos of any kind, read from files for training: opened, turned upright, converted to sRGB, fitted to sizes."""
