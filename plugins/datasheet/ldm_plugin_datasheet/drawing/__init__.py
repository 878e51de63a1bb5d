"""The sheet of pictures."""
