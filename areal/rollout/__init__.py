"""Generation: the vLLM engine, conversations, admission and the buffer."""
