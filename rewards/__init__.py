"""Verifiers and their composition."""
