"""Workers: plain classes that run elsewhere, the handles that stand for them, and what starts them."""
