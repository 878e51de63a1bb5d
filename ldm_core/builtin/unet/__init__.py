"""The time-conditional U-Net."""
