"""LoRAs: their files and names, and how they are attached to a denoiser."""
