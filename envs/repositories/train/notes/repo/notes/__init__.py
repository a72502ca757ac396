"""Notes on the command line."""

from notes.cli import main
from notes.store import Notes

__all__ = ["Notes", "main"]
