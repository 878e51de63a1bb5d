"""Standard tests of what several kinds of parts promise, for their suites."""
