"""Samples over the values of one, two or three settings, and the labelled pictures of them."""
