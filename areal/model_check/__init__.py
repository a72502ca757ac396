"""``areal models check``: whether an engine computes what the learner computes, for one model."""
