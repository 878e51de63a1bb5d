"""Metrics of a picture beside its original."""
