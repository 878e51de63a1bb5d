"""The evaluation: pictures in, rows kept, numbers with their protocol out."""
