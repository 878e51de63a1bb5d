"""The parts that ldm-core brings itself."""
