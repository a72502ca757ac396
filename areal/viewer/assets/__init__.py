"""The page's own files. They are used unchanged, without a build step.

uPlot, in ``uplot/``, draws the charts, and Temml, in ``temml/``, renders TeX (both MIT). Their READMEs name
their sources.
"""

from __future__ import annotations

from pathlib import Path

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Types of files that are served; the folder also contains others, such as licenses."""


def read_assets() -> dict[str, bytes]:
    """Return the served files by name."""
    folder = Path(__file__).parent
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES
    }
