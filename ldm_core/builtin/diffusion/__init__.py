"""The built-in diffusion mathematics."""
