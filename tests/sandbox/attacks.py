"""Programs that want a reward without doing the work, or want to do harm: attacks.txt.

The task that all of them are given: ``f(x)`` returns ``x * x``. None does. Each names the naive grader
(naive.py) that it gets the better of, and what getting the better means:

- ``false pass``: the grader says that the tests passed;
- ``hang``: the grader does not come back in time;
- ``flood``: the grader takes in far more than it should, or leaves it on the disk;
- ``fork``: many processes are started, or outlive the run;
- ``escape``: ``probe()`` is true: the code has reached something that is not its own;
- ``leak``: ``probe()`` of a *second* run is true: something of the first has stayed;
- ``bomb``: whoever reads the answer crashes, hangs, or does what the answer says;
- ``poison``: an honest solution that is graded next does not pass.

``@SECRET@`` is the path of a file, ``@OUT@`` a path that does not exist, ``@PORT@`` a port that listens,
``@HOST@`` the name of the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(
    r"=== (?P<category>[^:\n]+): (?P<name>[^\n]+) \[(?P<grader>\w+)\]\n(?P<source>.*)", re.DOTALL
)


@dataclass(frozen=True)
class Attack:
    name: str
    category: str
    grader: str
    source: str
    second: str = ""


def corpus() -> list[Attack]:
    """Return every attack."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return [_attack(entry) for entry in re.split(r"^(?==== )", text, flags=re.MULTILINE) if entry]


def _attack(entry: str) -> Attack:
    found = _ENTRY.fullmatch(entry)
    assert found, f"not an attack: {entry[:80]!r}"
    first, _, second = found["source"].partition("--- then\n")
    return Attack(found["name"], found["category"], found["grader"], first, second)
