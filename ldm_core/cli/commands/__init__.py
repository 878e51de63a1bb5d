"""The core's own commands of ``ldm-run``, one a file."""
