"""Adversarial distillation: the objective, its discriminator, and the features before it."""
