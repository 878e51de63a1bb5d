"""A whole run as plain values, resolved and checked without torch."""
