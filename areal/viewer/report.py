"""The page as one file that opens from the disk: curves of runs, and the rollouts of their last updates."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from areal.disk import one_line, write_whole
from areal.errors import UserError
from areal.viewer.assets import read_assets
from areal.viewer.watched import WatchedRun

BYTES = 20 * 10**6
"""Of rollouts in a report; what is larger is slow to send and to open."""
_MODULES = (
    "dom.js",
    "source.js",
    "charts.js",
    "overview.js",
    "list.js",
    "mathematics.js",
    "conversation.js",
    "tokenview.js",
    "rollout.js",
    "timeline.js",
    "main.js",
)
"""Each after those that it imports."""
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", re.MULTILINE)
_LINKS = re.compile(r"^<(?:link|script) .*\n", re.MULTILINE)


def write_report(runs: Sequence[WatchedRun], path: Path, limit: int = BYTES) -> str:
    """Write a report and return a line that says what is in it.

    Args:
        runs: which ones.
        path: of the file; one that is there is replaced.
        limit: bytes of rollouts, which the runs share.

    Raises:
        UserError: a record is damaged, or nothing can be written there.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: give a file in a folder that is there")
    rollouts = {run.name: _rollouts(run, limit // len(runs)) for run in runs}
    parts = [_said(name, found, len(runs) > 1) for name, found in rollouts.items()]
    note = "; ".join(parts)
    data = {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "note": f"In this file: all metrics, and {note}.",
        "runs": [run.state() for run in runs],
        "settings": {run.name: run.settings() for run in runs},
        "metrics": {run.name: _metrics(run) for run in runs},
        "rollouts": rollouts,
        "timeline": {run.name: run.timeline("all") for run in runs},
    }
    with one_line(path.parent):
        write_whole(path, [_page(data)])
    return note


def _rollouts(run: WatchedRun, limit: int) -> dict[str, Any]:
    """Return the rollouts of as many of the last updates as fit."""
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    first: int | None = None
    last: int | None = None
    used = 0
    for step in reversed(run.run.recorded_steps()):
        found = run.step(step)
        used += len(json.dumps(found))
        if used > limit:
            break
        for row, whole in found:
            rows.append(row)
            groups.setdefault(f"{step}/{row['group']}", []).append(whole)
        first, last = step, step if last is None else last
    return {
        "rows": rows,
        "groups": groups,
        "first": first,
        "last": last,
        "envs": sorted({row["env"] for row in rows} - {""}),
        "finishes": sorted({row["finish"] for row in rows}),
        "damaged": [],
    }


def _said(name: str, found: dict[str, Any], several: bool) -> str:
    which = f" of {name}" if several else ""
    if found["first"] is None:
        return f"no rollouts{which}"
    return f"the rollouts of steps {found['first']} to {found['last']}{which}"


def _metrics(run: WatchedRun) -> dict[str, Any]:
    """Return all metrics as one answer of :meth:`WatchedRun.metrics`."""
    whole = run.metrics("")
    while whole["more"]:
        found = run.metrics(whole["mark"])
        for key in whole["columns"].keys() | found["columns"].keys():
            column = whole["columns"].setdefault(key, [None] * whole["length"])
            column += found["columns"].get(key, [None] * found["length"])
        whole |= {"length": whole["length"] + found["length"], "mark": found["mark"], "more": found["more"]}
    return {**whole, "mark": "all"}


def _page(data: dict[str, Any]) -> str:
    """Return the page with everything in it. A policy lets it run these scripts alone, and load nothing."""
    assets = {name: content.decode() for name, content in read_assets().items()}
    program = "\n".join(_IMPORT.sub("", assets[name]).replace("\nexport ", "\n") for name in _MODULES)
    libraries = [assets["uplot/uPlot.iife.min.js"], assets["temml/temml.min.js"]]
    style = assets["uplot/uPlot.min.css"] + assets["style.css"]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_digest, [*libraries, program]))}",
            f"style-src {_digest(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    values = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    scripts = "".join(f"<script>{library}</script>\n" for library in libraries)
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{style}</style>\n"
        f'<script type="application/json" id="report">{values}</script>\n'
        f'{scripts}<script type="module">{program}</script>\n'
    )
    return _LINKS.sub("", assets["index.html"]).replace("</head>\n", head + "</head>\n", 1)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
