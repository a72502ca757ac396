"""Tools for authors of environments: create, describe, check and try an environment."""
