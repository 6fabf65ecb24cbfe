"""Models that denoise nothing."""
