"""Features of a denoiser kept from step to step."""
