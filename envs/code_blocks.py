"""Finds the code in a response: fenced blocks as CommonMark defines them, and as models write them.

The text comes from a model, so everything here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from areal.thoughts import after_any_thought, ends_thought

_FENCE = re.compile(r"`{3,}|~{3,}")
_BEFORE_A_FENCE = re.compile(r"(?:[ \t]|<[^<>]*>|[-*+]|\d+[.)])*")
"""What may precede an opening fence: space, tags such as ``<answer>``, a list marker."""
_MAX_BEFORE = 200
_PYTHON = re.compile(r"\{?\.?(?:i?python[\d.]*|py[\d.]*|pypy[\d.]*)\b(?![+#])", re.IGNORECASE)
_LANGUAGE = re.compile(
    r"\{?\.?(?:i?python|py|pypy|c|cpp|java|javascript|js|ts|rust|go|ruby|r|sql|bash|sh|shell|console|text|txt|"
    r"plaintext|output|input|json|yaml|xml|html|markdown|md|diff|pycon)[\d.]*\b(?![ \t]*[^\s{])",
    re.IGNORECASE,
)
"""An info string that may open a block within an unclosed one; prose closes it instead."""
_GLUED = re.compile(r"(?:`{3,}|~{3,})\s*(?:</?\w+>\s*)*\Z")
"""A closing fence after the last line of code, instead of on its own line."""
_CLOSING_TAG = re.compile(r"\s*</\w+>\s*\Z")
_QUOTES = re.compile(r"\"\"\"|'''")
_TAGGED = re.compile(r"<(/?)(answer|solution|code)>", re.IGNORECASE)


@dataclass(slots=True)
class _Block:
    """A fenced block.

    Attributes:
        fence: the opening fence.
        info: the text after the fence, in lower case.
        indent: columns of space, or of a list marker, before the fence.
        lines: the lines of its content.
        closed: whether its end was found.
    """

    fence: str
    info: str
    indent: int
    lines: list[str] = field(default_factory=list)
    closed: bool = False

    @property
    def text(self) -> str:
        """Return its content, without the indentation of its fence."""
        end = len(self.lines)
        while not self.closed and end and _CLOSING_TAG.match(self.lines[end - 1]):
            end -= 1
        lines = self.lines[:end]
        margin = " " * self.indent
        if margin and all(line.startswith(margin) or not line.strip() for line in lines):
            lines = [line[self.indent :] for line in lines]
        return "\n".join([*lines, ""] if self.closed and lines else lines)

    @property
    def rank(self) -> int:
        """Return how likely the block is Python code: marked as Python, unmarked, or marked as another
        language."""
        return 2 if _PYTHON.match(self.info) else int(not self.info)


def code_block(text: str, wanted: str = "") -> str | None:
    """Return the content of the relevant code block of a response, if there is one.

    A block marked as Python takes precedence over an unmarked one, and that over one in another language.
    Among several, it is the last one that matches ``wanted``, or else the last one. The end of a block may be
    missing. Thoughts (up to ``</think>``) are ignored.

    Args:
        text: the response.
        wanted: a regular expression that a solution matches, such as the definition of its function; it must
            take linear time.
    """
    blocks = _blocks_of_response(text)
    if not blocks:
        return None
    texts = [block.text for block in blocks]

    def merit(place: int) -> tuple[bool, bool, int, int]:
        has = re.search(wanted, texts[place], re.MULTILINE) is not None
        return bool(texts[place].strip()), has and blocks[place].rank > 0, blocks[place].rank, place

    return texts[max(range(len(texts)), key=merit)]


def program_of(text: str, wanted: str = "") -> tuple[str, bool]:
    """Return the program in a response, and whether it is in a code block.

    Without a block, it is the text within ``<answer>`` (or ``<code>``, ``<solution>``), or all text after the
    thoughts.
    """
    block = code_block(text, wanted)
    if block is not None:
        return block, True
    response = after_any_thought(text)
    tags = list(_TAGGED.finditer(response))
    for opening, closing in zip(reversed(tags[:-1]), reversed(tags), strict=False):
        if not opening[1] and closing[1] and opening[2].lower() == closing[2].lower():
            return response[opening.end() : closing.start()], False
    return response, False


def _blocks_of_response(text: str) -> list[_Block]:
    response = after_any_thought(text)
    found = list(_blocks(response))
    if found or response is text:
        return found
    # The mark that seemed to end the thoughts may be a part of the program.
    whole = list(_blocks(text))
    return whole if whole and ends_thought(whole[-1].text) else []


def _blocks(text: str) -> Iterator[_Block]:
    """Yield the fenced blocks of a text."""
    lines = text.split("\n")
    place, careful = 0, True
    while place < len(lines) - 1:
        block = _opened(lines[place])
        place += 1
        if block is None:
            continue
        end, doubtful = _end(lines, place, block, careful)
        if end is None and doubtful is not None:
            # Look back only once; otherwise a long text would be scanned again and again.
            end, careful = doubtful, False
        if end is None:
            block.lines = lines[place:]
            yield block
            return
        block.lines, block.closed = lines[place:end], True
        if end < len(lines) and not _is_fence(lines[end], block):
            block.lines.append(_GLUED.sub("", lines[end]))
        yield block
        # A fence that also opens the next block is read again.
        opening = _opening(lines[end], block)
        place = end + 1 if opening is None else end
        lines[end] = opening or ""


def _opened(line: str) -> _Block | None:
    """Return the block that a line opens."""
    fence = _FENCE.search(line)
    if fence is None:
        return None
    before, info = line[: fence.start()], line[fence.end() :].strip()
    if "`" in info and fence[0][0] == "`":
        return None
    blank = not before.strip()
    marked = len(before) <= _MAX_BEFORE and _BEFORE_A_FENCE.fullmatch(before) is not None
    # After other words, only a fence that cannot end a block opens one.
    if not blank and not marked and not _PYTHON.fullmatch(info):
        return None
    return _Block(fence[0], info.lower(), len(before) if marked and "<" not in before else 0)


def _end(lines: list[str], start: int, block: _Block, careful: bool) -> tuple[int | None, int | None]:
    """Return the line that ends a block, or else the first line that might end it.

    A fence within triple quotes is part of a program's text, if the quotes end.
    """
    quotes: str | None = None
    doubtful = None
    for place in range(start, len(lines)):
        line = lines[place]
        if _is_fence(line, block):
            if quotes is None or not careful:
                return place, None
            doubtful = place if doubtful is None else doubtful
        elif quotes is None and block.fence in line and "#" not in line and _GLUED.search(line.rstrip()):
            return place, None
        for mark in _QUOTES.findall(line):
            quotes = mark if quotes is None else None if quotes == mark else quotes
    return None, None if quotes is None else doubtful


def _is_fence(line: str, block: _Block) -> bool:
    return line.lstrip().startswith(block.fence)


def _opening(line: str, block: _Block) -> str | None:
    """Return the part of an ending line that opens another block: all of it, if there is no closing fence."""
    if not _is_fence(line, block):
        return None
    behind = line.lstrip()[len(block.fence) :]
    another = _opened(behind)
    if another is not None and _PYTHON.fullmatch(another.info):
        return behind
    return line if _LANGUAGE.match(behind.lstrip(block.fence[0])) is not None else None
