"""The conformance suites, one file a contract. Their names are imported from :mod:`ldm_core.testing`."""
