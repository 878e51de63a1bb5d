"""Adversarial distillation: the objective, its discriminator, and the features that it looks at."""
