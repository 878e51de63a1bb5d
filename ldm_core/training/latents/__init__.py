"""Encoded images, kept and read back."""
