"""Networks whose features metrics compare, and where their weights are found."""
