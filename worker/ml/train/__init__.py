"""LoRA training: the loop, and the photos, settings and checkpoints that it reads and writes."""
