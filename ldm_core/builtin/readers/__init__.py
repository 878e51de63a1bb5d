"""The readers of stored data: tar and folder."""
