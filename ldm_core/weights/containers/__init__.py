"""Containers of tensors, opened without running anything from them."""
