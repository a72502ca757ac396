"""What one step of an engine and of the learner takes at once, as the estimate of memory has to know, too."""

BATCHED_TOKENS = 8192
"""Tokens of one forward pass of an engine, at most."""
LOGITS_AT_ONCE = 2**29
"""Logits that the learner makes at once, at most, on a GPU."""
