"""The runtimes of torch: its own calls, and code compiled by it."""
