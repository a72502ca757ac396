"""Verifiers, and rewards composed of parts."""
