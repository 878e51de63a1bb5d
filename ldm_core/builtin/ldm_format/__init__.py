"""The codec of the package's own files."""
