"""A measurement as a document: written, shown, compared."""
