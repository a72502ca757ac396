"""Held-out accuracy and its report."""
