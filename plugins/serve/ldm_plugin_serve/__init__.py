"""Trained models over HTTP, with a page to play with."""
