"""Draw a recording of a terminal as a film: python scripts/draw_terminal.py RECORDING.cast PICTURE.svg

scripts/record_terminal.py makes recordings. Where nothing moves, as in print, there is the last frame.
"""

from __future__ import annotations

import json
import sys
from html import escape
from itertools import groupby
from pathlib import Path

import pyte
from pyte.screens import Char

SPEED = 10
"""Of the film, in seconds of the command per second."""
FRAMES_PER_SECOND = 2
LAST = 6
"""Seconds for which the last frame stays."""
WIDTH, HEIGHT, SIZE = 8.4, 18, 14
"""Of a character's cell, and of its font, in pixels."""
MARGIN = 14
COLORS = {"default": "#d8dee9", "cyan": "#56c8d8", "green": "#8cc265", "yellow": "#e5c07b", "red": "#ff7b72"}

Row = tuple[Char, ...]


def main(recording: Path, picture: Path) -> None:
    """Draw one recording."""
    frames = read(recording)
    seconds = (len(frames) - 1) / FRAMES_PER_SECOND + LAST
    rows = max(len(frame) for frame in frames)
    wide = len(frames[0][0]) * WIDTH + 2 * MARGIN
    high = rows * HEIGHT + 2 * MARGIN
    starts = [
        f"{100 * number / FRAMES_PER_SECOND / seconds:.2f}%{{transform:translateX({-number * wide:.0f}px)}}"
        for number in range(len(frames))
    ]
    last = f"transform:translateX({-(len(frames) - 1) * wide:.0f}px)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}" font-size="{SIZE}"'
        ' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace">',
        f"<style>text{{white-space:pre;fill:{COLORS['default']}}}.film{{{last}}}"
        f"@keyframes film{{{''.join(starts)}100%{{{last}}}}}@media (prefers-reduced-motion:no-preference){{"
        f".film{{animation:film {seconds:.1f}s steps(1,end) infinite}}}}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#161b22" stroke="#57606a"/><g class="film">',
    ]
    for number, frame in enumerate(frames):
        parts += [drawn(row, number * wide + MARGIN, index) for index, row in enumerate(frame)]
    picture.write_text("\n".join(filter(None, [*parts, "</g></svg>"])) + "\n")


def read(recording: Path) -> list[list[Row]]:
    """Return what the terminal shows in each frame, row by row."""
    header, *events = (json.loads(line) for line in recording.open())
    columns, rows = header["width"], header["height"]
    screen = pyte.Screen(columns, rows)
    stream = pyte.Stream(screen)
    stream.feed(f"$ {header['command']}\r\n")
    frames, step = [shown(screen)], SPEED / FRAMES_PER_SECOND
    for at, _, text in events:
        while at >= len(frames) * step:
            frames.append(shown(screen))
        stream.feed(text)
    return [*frames, shown(screen)]


def shown(screen: pyte.Screen) -> list[Row]:
    """Return the rows of the screen as they are now, down to the last that has text."""
    rows = [tuple(screen.buffer[y][x] for x in range(screen.columns)) for y in range(screen.lines)]
    while len(rows) > 1 and all(char.data == " " for char in rows[-1]):
        rows.pop()
    return rows


def drawn(row: Row, left: float, index: int) -> str:
    """Draw one row; runs of one look have their exact place and width, whatever the font."""
    runs, column = [], 0
    for (color, bold), chars in groupby(row, lambda char: (char.fg, char.bold)):
        text = "".join(char.data for char in chars)
        if text.strip():
            fill = "" if color == "default" else f' fill="{COLORS.get(color) or f"#{color}"}"'
            weight = ' font-weight="bold"' if bold else ""
            shown = text.rstrip()
            place = f'x="{left + column * WIDTH:.1f}" textLength="{len(shown) * WIDTH:.1f}"'
            runs.append(f"<tspan {place}{fill}{weight}>{escape(shown)}</tspan>")
        column += len(text)
    return f'<text y="{MARGIN + (index + 0.75) * HEIGHT:.0f}">{"".join(runs)}</text>' if runs else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
