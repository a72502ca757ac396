"""The fenced blocks of the documentation. Every one of them is tested; how, is written here.

- ``sh``: on a page that begins with ``<!-- test: run -->`` the commands are run, in order, in an empty folder
  (tests/end_to_end/test_pages.py). On all others each command is checked as far as can be without starting an
  engine: its options and settings by the real parsers, environment, agent, model and data by making them
  (tests/unit/test_pages.py). A command that neither knows how to check is a failure.
- ``<!-- test: run with steps=40 -->`` in the line above a block gives its commands these settings
  besides; ``<!-- test: check -->`` leaves the block to the check alone.
- ``python``: run as it stands, all blocks of a page in one namespace.
- any language with ``title="name"``: a file of that name, which a command (or another file) of the page must
  use. ``yaml`` and ``json`` must have one.
- ``text``: what commands print; each line must be, but for its numbers, one of a real run's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RUN_PAGES = [page for page in PAGES if page.read_text().startswith("<!-- test: run -->\n")]
LANGUAGES = {"sh", "python", "yaml", "json", "text"}
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_SETTINGS = re.compile(r"<!-- test: (check|run with (.+)) -->")
_NUMBER = re.compile(r"\d[\d,.:]*|\binf\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its page.
        line: where it begins, from 1.
        language: the first word behind the fence.
        title: the name of the file that it is; None: none.
        text: what is in it.
        directive: what the comment above says: ``check``, ``run with …``, or nothing.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    directive: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def settings(self) -> str:
        """What its commands are run with besides."""
        return self.directive.removeprefix("run with ") if self.directive.startswith("run with ") else ""

    def commands(self) -> list[list[str]]:
        """The commands of a block of shell, as words; comments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; a fence that nothing closes is an error."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        start, closing = number, opened["indent"] + opened["ticks"]
        number = lines.index(closing, start + 1)
        language, *_ = [*opened["info"].split(), ""]
        title = _TITLE.search(opened["info"])
        above = _SETTINGS.fullmatch(lines[start - 1].strip()) if start else None
        text = "".join(line.removeprefix(opened["indent"]) + "\n" for line in lines[start + 1 : number])
        yield Block(page, start + 1, language, title[1] if title else None, text, above[1] if above else "")
        number += 1


def assert_printed(page: Path, output: str) -> None:
    """Check that each line of the page's ``text`` blocks is in the output, but for its numbers."""
    printed = {_NUMBER.sub("#", line.strip()) for line in output.splitlines()}
    for block in blocks(page):
        for line in block.text.splitlines() if block.language == "text" else ():
            assert _NUMBER.sub("#", line.strip()) in printed, f"{block}: no command prints: {line}"
