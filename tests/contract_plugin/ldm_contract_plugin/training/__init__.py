"""Parts that use the doors of training: sizes, teachers, representations, precisions."""
