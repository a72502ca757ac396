"""The learner: objectives, advantages, micro-batches, and the model with its updates."""
