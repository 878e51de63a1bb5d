"""The conformance suite of degradations."""
