"""Training of a denoiser with its conditioners."""
