"""Sends a run to experiment trackers, beside the files of its run directory."""
