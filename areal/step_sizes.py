"""What one step of an engine and of the learner takes at once, as the estimate of memory has to know, too."""

BATCHED_TOKENS = 8192
"""Tokens of one forward pass of an engine, at most."""
MICRO_BATCH = 16384
"""Tokens of one forward and backward pass of the learner on a GPU, at most, where nothing else is said."""
LARGE_MICRO_BATCH = 32768
"""The same where memory is plentiful: a learner of a small model waits for its host half as often."""
LOGITS_AT_ONCE = 2**29
"""Logits that the learner makes at once, at most, on a GPU."""
