"""Boxes in files of other tools: the files found, the format chosen, the pictures matched."""
