"""Examples: pictures, geometry, batches."""
