"""Which devices there are, who gets which, and how the memory of each is divided: plain values."""
