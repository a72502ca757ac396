r"""Kinds of notation as text: references, then forms that are equal (=) and near misses (/)."""

from __future__ import annotations

from collections.abc import Iterator


def cases(text: str) -> Iterator[tuple[str, str, str, bool]]:
    """Yield kind, reference, answer, and whether it is right; three spaces part answers."""
    kind = target = ""
    for line in text.strip().splitlines():
        if line.startswith("# "):
            kind = line[2:]
        elif line.startswith("  "):
            yield from ((kind, target, form, line[2] == "=") for form in line[4:].split("   "))
        else:
            target = line
