"""Metrics of a model, its codebook and its training pictures."""
