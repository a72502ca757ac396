"""Metrics, the run directory, the live display and plots."""
