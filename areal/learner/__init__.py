"""The update: objectives, advantages, micro-batches, the model and the learner."""
