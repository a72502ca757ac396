"""Divides reset seeds, and indices of unlimited problems, between training and evaluation."""

from __future__ import annotations

RUN_STRIDE = 2**25
"""Training counts its problems from a multiple of this; each seed of a run has a different one."""
HELD_OUT = 2**31
"""Environments without splits are evaluated on reset seeds from this one; training stays below it."""
