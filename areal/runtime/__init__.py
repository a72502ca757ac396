"""The asynchronous loop, checkpoints and shutdown."""
