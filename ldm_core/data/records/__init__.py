"""Stored samples as examples: the part that the tar and folder readers share."""
