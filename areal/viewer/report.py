"""The page as one file that can be opened from disk: curves of runs, evaluations, rollouts and sessions."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from areal.disk import one_line, write_whole
from areal.errors import UserError
from areal.viewer.assets import read_assets
from areal.viewer.evaluations import Comparisons, WatchedEvaluation
from areal.viewer.listing import Listing
from areal.viewer.sessions import WatchedSessions
from areal.viewer.watched import Watched, WatchedRun

BYTES = 20 * 10**6
"""Default maximum bytes of rollouts in a report; larger files are slow to send and to open."""
_MODULES = (
    "dom.js",
    "source.js",
    "charts.js",
    "scores.js",
    "overview.js",
    "list.js",
    "mathematics.js",
    "conversation.js",
    "tokenview.js",
    "rollout.js",
    "comparison.js",
    "causes.js",
    "timeline.js",
    "main.js",
)
"""Each comes after those that it imports."""
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", re.MULTILINE)
_LINKS = re.compile(r"^<(?:link|script) .*\n", re.MULTILINE)


def write_report(watched: Sequence[Watched], path: Path, limit: int = BYTES) -> str:
    """Write a report and return a line on its content.

    Args:
        watched: the runs, evaluations and sessions to include.
        path: path of the file; an existing one is replaced.
        limit: maximum bytes of all rollouts together.

    Raises:
        UserError: a record is damaged, or the file cannot be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"cannot write {path}: give a file in an existing folder")
    runs = [each for each in watched if isinstance(each, WatchedRun)]
    evaluations = [each for each in watched if isinstance(each, WatchedEvaluation)]
    sessions = [each for each in watched if isinstance(each, WatchedSessions)]
    share = limit // len(watched)
    rollouts = {run.name: _rollouts(run, share) for run in runs}
    rollouts |= {each.name: _responses(each, list(each.files.values()), share) for each in evaluations}
    rollouts |= {each.name: _responses(each, [1], share) for each in sessions}
    kept = {each.name for each in sessions}
    parts = [_said(name, found, len(watched) > 1, name in kept) for name, found in rollouts.items()]
    note = "; ".join([*(["all metrics"] if runs else []), *(["all scores"] if evaluations else []), *parts])
    data = {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "note": f"This file contains {note}.",
        "runs": [run.state() for run in runs],
        "evaluations": [each.state() for each in evaluations],
        "sessions": [each.state() for each in sessions],
        "settings": {each.name: each.settings() for each in watched},
        "metrics": {run.name: _metrics(run) for run in runs},
        "rollouts": rollouts,
        "timeline": {run.name: run.timeline("all") for run in runs},
        "comparisons": _comparisons(evaluations),
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
        **_names(rows),
    }


def _responses(watched: Listing, numbers: Iterable[int], limit: int) -> dict[str, Any]:
    """Return as many responses of an evaluation as fit, in the order of its problems; or sessions."""
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    used = count = 0
    for number in numbers:
        for row, whole in watched.step(number):
            count += 1
            used += len(json.dumps([row, whole]))
            if used <= limit:
                rows.append(row)
                groups.setdefault(f"{number}/{row['group']}", []).append(whole)
    return {"rows": rows, "groups": groups, "responses": count, **_names(rows)}


def _names(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the names by which rows can be filtered."""
    return {
        "envs": sorted({row["env"] for row in rows} - {""}),
        "finishes": sorted({row["finish"] for row in rows}),
        "parts": list(dict.fromkeys(name for row in rows for name in row["parts"])),
        "parts_left_out": False,
        "damaged": [],
    }


def _comparisons(evaluations: Sequence[WatchedEvaluation]) -> dict[str, Any]:
    """Return how each pair of evaluations differs on each benchmark, or why they cannot be compared."""
    comparisons = Comparisons()
    found: dict[str, Any] = {}
    for a, b in permutations(evaluations, 2):
        for benchmark in a.files.keys() & b.files.keys():
            try:
                compared = comparisons.compare(a, b, benchmark)
            except UserError as error:
                compared = {"error": str(error)}
            found[json.dumps([a.name, b.name, benchmark], separators=(",", ":"), ensure_ascii=False)] = (
                compared
            )
    return found


def _said(name: str, found: dict[str, Any], several: bool, sessions: bool) -> str:
    which = f" of {name}" if several else ""
    if "responses" in found:
        whole = len(found["rows"]) == found["responses"]
        what = "sessions" if sessions else "responses"
        return f"{'all' if whole else len(found['rows'])} of {found['responses']} {what}{which}"
    if found["first"] is None:
        return f"no rollouts{which}"
    return f"the rollouts of steps {found['first']} to {found['last']}{which}"


def _metrics(run: WatchedRun) -> dict[str, Any]:
    """Return all metrics in the form of one answer of :meth:`WatchedRun.metrics`."""
    whole = run.metrics("")
    while whole["more"]:
        found = run.metrics(whole["mark"])
        for key in whole["columns"].keys() | found["columns"].keys():
            column = whole["columns"].setdefault(key, [None] * whole["length"])
            column += found["columns"].get(key, [None] * found["length"])
        whole |= {"length": whole["length"] + found["length"], "mark": found["mark"], "more": found["more"]}
    return {**whole, "mark": "all"}


def _page(data: dict[str, Any]) -> str:
    """Return the complete page, whose security policy only allows its own scripts, and no resources."""
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
