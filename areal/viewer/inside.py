"""Restricts access to files of a run; links that lead out of it are not followed."""

from __future__ import annotations

from pathlib import Path

from areal.errors import UserError


def inside(folder: Path, *names: str) -> Path:
    """Return the path of a file of a run, which need not exist.

    Raises:
        UserError: it is a link that leads out of the run, or is in a folder that is such a link.
    """
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of the run, so areal does not follow it")
    return path
