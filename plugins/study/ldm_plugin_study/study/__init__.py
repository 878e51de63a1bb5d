"""Studies of many settings, each in a folder of its own."""
