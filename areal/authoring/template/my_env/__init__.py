"""An environment for areal."""
