"""Fidelity of pictures to what they were asked for."""
