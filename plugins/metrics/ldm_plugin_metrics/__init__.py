"""Metrics of pictures, and the commands that evaluate models with them."""
