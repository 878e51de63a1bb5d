"""Subcommands of ldm-run."""
