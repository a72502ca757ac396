"""For authors of environments: write one, describe it, check it, try it."""
