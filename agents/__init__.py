"""How a model acts in an environment."""
