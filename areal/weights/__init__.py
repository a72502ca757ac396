"""The transfer of weights from the learner to the engines."""
