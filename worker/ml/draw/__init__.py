"""Pictures from a base: the denoising loop and what it reads."""
