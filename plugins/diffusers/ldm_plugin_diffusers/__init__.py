"""Weights and pipelines in the folder format of diffusers, read and written without it."""
