"""Which reset seeds, and indices of unbounded problems, are for training and which are for evaluation."""

from __future__ import annotations

RUN_STRIDE = 2**25
"""Training counts its problems from a multiple of this; each seed of a run has another one."""
HELD_OUT = 2**31
"""Environments without splits are evaluated on reset seeds from here on; training stays below."""
