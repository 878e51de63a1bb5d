"""Weights files of this and other programs, opened without running anything from them: containers, pickles, copies."""
