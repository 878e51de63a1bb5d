"""Shared network blocks: norms, embeddings, attention, U-Net and autoencoder blocks. Imports torch only.

Key names and numerics follow the published latent diffusion checkpoints, so weights map one to one; golden
tests pin the outputs. A block never changes under a checkpoint: a variant is a new class.
"""
