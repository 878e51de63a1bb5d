"""The suite of readers of annotations."""
