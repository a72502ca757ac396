"""Sends a run to experiment trackers, in addition to the files of its run directory."""
