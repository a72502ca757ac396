"""The page's own files. They are used as they are: there is no build step.

The charts are drawn by uPlot, in ``uplot/``, and TeX is read by Temml, in ``temml/`` (both MIT). Their
READMEs say where they are from.
"""

from __future__ import annotations

from pathlib import Path

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Kinds of files that are served; there are others beside them, such as licences."""


def read_assets() -> dict[str, bytes]:
    """Return the files that are served, by their names."""
    folder = Path(__file__).parent
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES
    }
