"""Inputs that people give a model: their forms in words, masks, and the size that they are brought to."""
