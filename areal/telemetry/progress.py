"""The display of a run: live on a terminal, occasional lines elsewhere, or nothing.

No metric is required; missing ones are not shown.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from areal.telemetry.scores import finite, score_key

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKLINE = 24  # characters
_LINES = 20  # approximate number of progress lines in a whole run, without a terminal
_QUIET = 10.0  # seconds between status lines that only differ in their numbers
_WIDEST = 100  # columns; a longer bar is not more informative
_ROWS = (
    ("staleness", {"staleness/mean": "mean", "staleness/max": "max"}, "{:.3g}"),
    ("tokens/s", {"throughput/tokens_per_s": "generated", "learner/tokens_per_s": "trained"}, "{:,.0f}"),
)
_TROUBLE = {
    "rollout/retries": "{:,.0f} retries",
    "rollout/failures": "{:,.0f} groups discarded",
    "rollout/punished": "{:,.0f} with reward 0",
    "rollout/refused": "{:,.0f} requests refused",
    "rollout/sandbox_faults": "{:,.0f} sandbox faults",
    "rollout/verifier_faults": "{:,.0f} verifier faults",
    "rollout/env_faults": "{:,.0f} environment faults",
}
"""Values that are shown from the first one on."""


@contextmanager
def announced(what: str, terminal: TextIO | None) -> Iterator[None]:
    """Show what takes seconds within the block, and erase it afterwards; nothing if it is no terminal."""
    if terminal is None or not terminal.isatty():
        yield
        return
    print(what, end="", file=terminal, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=terminal, flush=True)


class Progress:
    """Shows a run; a context manager, which restores the terminal at the end.

    Args:
        total_steps: number of updates of the whole run; 0 if it is unknown.
    """

    def __init__(self, total_steps: int, title: str, enabled: bool, terminal: TextIO) -> None:
        self._total = total_steps
        self._title = title
        self._enabled = enabled
        self._terminal = terminal
        self._step = 0
        self._status = ""
        self._metrics: dict[str, Any] = {}
        self._rewards: list[float] = []
        self._seconds: list[float] = []
        self._accuracy: str | None = None
        self._written = False
        self._shown_status = ("", -math.inf)
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._enabled and self._terminal.isatty():
            self._start_display()
        if self._live is None:
            self._write(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        self._status = ""
        if self._live is not None:
            self._live.stop()
        self._live, self._enabled = None, False

    def remember(self, lines: list[dict[str, Any]]) -> None:
        """Restore the history of a resumed run; ``lines`` are those of its ``metrics.jsonl``."""
        for line in lines:
            self._take(line)

    def update(self, metrics: dict[str, Any]) -> None:
        """Show metrics: those of an update (``step`` and more), or of an evaluation alone."""
        self._status = ""
        if self._take(metrics):
            first, self._written = not self._written, True
            every = math.ceil(self._total / _LINES) or 1
            if self._live is None and (first or self._step % every == 0 or self._step == self._total):
                self._write(self._line())

    def _take(self, metrics: dict[str, Any]) -> bool:
        """Store metrics; return whether they belong to an update."""
        self._take_accuracy(metrics)
        others = [key for key in metrics if not key.startswith("eval/")]
        if not metrics or (others == ["step"] and len(metrics) > 1):  # an evaluation is not an update
            return False
        self._metrics = dict(metrics)
        self._step = int(finite(metrics, "step") or self._step)
        for history, key in ((self._rewards, "reward/mean"), (self._seconds, "time/step")):
            value = finite(metrics, key)
            if value is not None:
                history.append(value)
        return True

    def status(self, text: str) -> None:
        """Show the current activity, until the next update."""
        self._status = text
        if self._live is None:
            kind, now = re.sub(r"\d+", "", text), time.monotonic()
            last, shown = self._shown_status
            if kind != last or now - shown >= _QUIET:
                self._shown_status = (kind, now)
                self._write(text)

    def message(self, text: str) -> None:
        """Show a permanent message, above the display."""
        if self._live is not None:
            # soft_wrap keeps a path in one piece for copying.
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._write(text)

    def _write(self, line: str) -> None:
        if self._enabled:
            self._terminal.write(line + "\n")
            self._terminal.flush()

    def _take_accuracy(self, metrics: dict[str, Any]) -> None:
        key = score_key(metrics)
        if (score := finite(metrics, key)) is not None:
            low, high = finite(metrics, f"{key}/low"), finite(metrics, f"{key}/high")
            known = low is not None and high is not None
            interval = f"  (95% interval {low:.3f} to {high:.3f})" if known else ""
            self._accuracy = f"{score:.3f}{interval}"

    def _line(self) -> str:
        forms = {
            "reward/mean": "reward {:.3f}",
            "staleness/mean": "staleness {:.2f}",
            "staleness/max": "(max {:.0f})",
            "throughput/tokens_per_s": "generated {:,.0f} tokens/s",
            "learner/tokens_per_s": "trained {:,.0f} tokens/s",
            "overlap": "overlap {:.2f}",
        }
        known = {key: value for key in forms if (value := finite(self._metrics, key)) is not None}
        left = self._time_left()
        return "  ".join(
            [
                f"step {self._step}/{self._total}",
                *(forms[key].format(value) for key, value in known.items()),
                *self._trouble(),
                *([f"{left} left"] if left else []),
            ]
        )

    def _trouble(self) -> list[str]:
        found = {key: finite(self._metrics, key) for key in _TROUBLE}
        return [_TROUBLE[key].format(value) for key, value in found.items() if value]

    def _time_left(self) -> str | None:
        recent = self._seconds[-20:]
        if not recent or self._step >= self._total:
            return None
        return _clock(sum(recent) / len(recent) * (self._total - self._step))

    def _rows(self) -> list[tuple[str, str]]:
        """Return name and value of everything that the display shows, in order."""
        number = {key: value for key in self._metrics if (value := finite(self._metrics, key)) is not None}
        rows = []
        if self._rewards:
            rows.append(("reward", f"{self._rewards[-1]:.3f}  {sparkline(self._rewards, _SPARKLINE)}"))
        if self._accuracy is not None:
            rows.append(("held-out", self._accuracy))
        for name, labels, form in _ROWS:
            shown = [f"{label} {form.format(number[key])}" for key, label in labels.items() if key in number]
            if shown:
                rows.append((name, "  ".join(shown)))
        if trouble := self._trouble():
            rows.append(("episodes", "  ".join(trouble)))
        step = number.get("time/step", 0.0)
        shares = [
            f"{part} {number[f'time/{part}'] / step:.0%}"
            for part in ("generate", "train", "sync", "wait")
            if step > 0 and f"time/{part}" in number
        ]
        if shares:
            rows.append(("time", "  ".join(shares)))
        if "overlap" in number:
            rows.append(
                ("overlap", f"{number['overlap']:.2f}" + (f"  ({step:.1f} s per step)" if step else ""))
            )
        return rows

    def _start_display(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        console = Console(file=self._terminal, force_jupyter=False)
        if console.is_dumb_terminal:  # cannot move the cursor
            return
        spinner = Spinner("dots")
        # areal.telemetry.logs has redirected descriptors 1 and 2, so rich must not redirect them as well.
        self._live = Live(
            console=console,
            get_renderable=lambda: self._render(console, spinner),
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _render(self, console: Console, spinner: Spinner) -> RenderableType:
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.text import Text

        self._fit(console)
        parts: list[RenderableType] = [Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")]
        if self._total:
            parts += [self._bar(), self._table()]
        if self._status:
            spinner.update(text=Text(self._status))
            parts.append(spinner)
        return Constrain(Group(*parts), _WIDEST)

    def _fit(self, console: Console) -> None:
        """Follow the size of our terminal, because rich would ask descriptors 1 and 2, here files."""
        try:
            size = os.get_terminal_size(self._terminal.fileno())
        except OSError:
            return
        if size.columns and size.lines:
            console.size = (size.columns, size.lines)

    def _bar(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        left = self._time_left()
        text = f"{self._step}/{self._total}" + (f"  {left} left" if left else "")
        row.add_row(ProgressBar(total=self._total, completed=self._step), text)
        return row

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        rows = self._rows()
        # If there is little room, the values take more lines, and nothing is truncated.
        table.add_column(style="cyan", min_width=max((len(name) for name, _ in rows), default=0))
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, Text(value))
        return table


def sparkline(values: list[float], width: int) -> str:
    """Draw a series of numbers, lowest to highest, in at most ``width`` characters."""
    cells = min(width, len(values))
    means = []
    for cell in range(cells):
        part = values[cell * len(values) // cells : (cell + 1) * len(values) // cells]
        means.append(sum(part) / len(part))
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((mean - low) / span * top) if span > 0 else 0] for mean in means)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
