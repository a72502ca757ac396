"""``areal models check``: whether an engine and the learner compute the same for a model."""
