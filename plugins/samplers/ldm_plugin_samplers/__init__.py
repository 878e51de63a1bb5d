"""Samplers and time grids for ldm-core."""
