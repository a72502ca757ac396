"""A package, so that the engine that these tests share ends with the last one of them."""
