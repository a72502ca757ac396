"""Sizes of one step of an engine and of the learner, which the memory estimate uses, too."""

BATCHED_TOKENS = 8192
"""Maximum number of tokens in one forward pass of an engine."""
MICRO_BATCH = 16384
"""Maximum number of tokens in one forward and backward pass of the learner on a GPU, by default."""
LARGE_MICRO_BATCH = 32768
"""The same with plenty of memory: the learner of a small model then waits for its host half as often."""
LOGITS_AT_ONCE = 2**29
"""Maximum number of logits that the learner computes at once on a GPU."""
