"""The viewer: the list of runs, and the texts that a model wrote in a run."""
