"""Blind comparison of two runs."""
