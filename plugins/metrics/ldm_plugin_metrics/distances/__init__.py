"""Distances between sets of pictures by a network's features."""
