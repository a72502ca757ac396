"""The available devices, their assignment, and the division of their memory, as plain values."""
