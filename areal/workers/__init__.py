"""Workers: plain classes that run elsewhere, their handles, and launchers that start them."""
