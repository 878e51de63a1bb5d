"""Sampling on OpenVINO."""
