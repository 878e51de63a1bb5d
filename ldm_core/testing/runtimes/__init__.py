"""The conformance suite of runtimes."""
