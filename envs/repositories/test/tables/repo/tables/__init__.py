"""Rows as tables of text."""

from tables.columns import columns
from tables.render import render

__all__ = ["columns", "render"]
