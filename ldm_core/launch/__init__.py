"""Processes of a run: their ranks, their start and their end."""
