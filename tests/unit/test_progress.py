"""What a person sees, on a real (pseudo) terminal and off it."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest
from rich.cells import cell_len

from areal.telemetry.progress import Progress, announced, sparkline

METRICS = {
    "reward/mean": 0.5,
    "staleness/mean": 1.25,
    "staleness/max": 4.0,
    "throughput/tokens_per_s": 12345.6,
    "learner/tokens_per_s": 8901.2,
    "time/step": 2.0,
    "time/generate": 2.0,
    "time/train": 1.5,
    "time/sync": 0.1,
    "time/wait": 0.5,
    "overlap": 1.75,
}
EVALUATION = {"step": 0, "eval/e/avg@1": 0.25, "eval/e/avg@1/low": 0.2, "eval/e/avg@1/high": 0.3}


class Screen:
    """A pseudo terminal and all that was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.stream: TextIO = open(slave, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 (close() closes it)
        self._data = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how Linux says that the other side is closed
                return
            self._data += data

    def close(self) -> str:
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._master)
        return self._data.decode()

    def frames(self) -> list[list[str]]:
        """What was drawn, as plain lines, cut where the cursor went back up to draw anew."""
        plain = re.sub(r"\x1b\[[0-9;?]*[B-Zb-z]", "", self.close())  # all but "up", which is A
        return [part.replace("\r", "").split("\n") for part in re.split(r"(?:\x1b\[1?A)+", plain)]


@pytest.fixture
def screens(monkeypatch) -> Iterator:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(columns: int = 60) -> Screen:
        made.append(Screen(columns))
        return made[-1]

    yield make
    for screen in made:
        screen.close()


def lines_of(total: int, updates, enabled: bool = True) -> list[str]:
    stream = io.StringIO()
    with Progress(total, "title", enabled, stream) as progress:
        for metrics in updates:
            progress.update(metrics)
    return stream.getvalue().splitlines()


def test_what_takes_seconds_is_announced_on_a_terminal_alone_and_erased(screens):
    screen, pipe = screens(), io.StringIO()
    for stream in (screen.stream, pipe, None):
        with pytest.raises(ValueError, match="a line"), announced("loading", stream):
            raise ValueError("a line")
    assert screen.close() == "loading\r\x1b[K"
    assert pipe.getvalue() == ""


def test_short_run_off_a_terminal_has_a_line_each_step():
    shown = lines_of(20, ({"step": step, **METRICS} for step in range(1, 21)))
    assert shown[0] == "title"
    assert [line.split()[1] for line in shown[1:]] == [f"{step}/20" for step in range(1, 21)]
    assert shown[10] == (
        "step 10/20  reward 0.500  staleness 1.25  (max 4)  generated 12,346 tokens/s  trained 8,901 tokens/s"
        "  overlap 1.75  0:20 left"
    )
    assert "left" not in shown[-1]


@pytest.mark.parametrize(("total", "first"), [(21, 1), (150, 1), (1001, 401)])
def test_long_run_off_a_terminal_has_few_lines_and_the_last(total, first):
    shown = lines_of(total, ({"step": step} for step in range(first, total + 1)))[1:]
    assert shown[0].startswith(f"step {first}/")
    assert shown[-1].startswith(f"step {total}/{total}")
    assert len(shown) <= 22


def test_status_and_messages_off_a_terminal():
    stream = io.StringIO()
    with Progress(0, "title", True, stream) as progress:
        progress.status("starting vLLM")
        for done in range(1, 500):
            progress.status(f"evaluating {done}/500")  # one line, not five hundred
        progress.message("[bold]done[/bold]")
    assert stream.getvalue().splitlines() == [
        "title",
        "starting vLLM",
        "evaluating 1/500",
        "[bold]done[/bold]",
    ]


def test_disabled_prints_nothing(screens):
    screen, stream = screens(), io.StringIO()
    for terminal in (screen.stream, stream):
        with Progress(3, "title", False, terminal) as progress:
            progress.status("s")
            progress.message("m")
            progress.update({"step": 1, **METRICS})
    assert screen.close() == stream.getvalue() == ""


@pytest.mark.parametrize("missing", [*METRICS, "step"])
def test_any_metric_may_be_missing_or_no_number(missing, screens):
    without = {key: value for key, value in {"step": 1, **METRICS}.items() if key != missing}
    for metrics in (without, {**without, missing: None}, {**without, missing: float("nan")}):
        assert len(lines_of(2, [metrics])) == 2
        screen = screens()
        with Progress(2, "title", True, screen.stream) as progress:
            progress.update(metrics)
        assert screen.frames()[-1][0].startswith("title")


def test_no_metrics_at_all():
    assert lines_of(2, [{}]) == ["title"]
    assert lines_of(2, [EVALUATION]) == ["title"]
    assert lines_of(2, [{"step": 1}]) == ["title", "step 1/2"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_display_on_a_terminal(columns, screens):
    screen = screens(columns)
    with Progress(150, "math-v1 · " + "long/" * 40, True, screen.stream) as progress:
        progress.update(EVALUATION)
        for step in range(1, 76):
            progress.update({"step": step, **METRICS, "reward/mean": step / 100})
        progress.status("evaluating")
    last = [line.rstrip() for line in screen.frames()[-1]]
    title, bar, *rows = last
    assert title.startswith("math-v1 · long/")
    assert bar.endswith("75/150  2:30 left")
    assert rows[0].startswith("reward     0.750  ▁")
    assert rows[1:] == [
        "held-out   0.250  (95% interval 0.200 to 0.300)",
        "staleness  mean 1.25  max 4",
        "tokens/s   generated 12,346  trained 8,901",
        "time       generate 100%  train 75%  sync 5%  wait 25%",
        "overlap    1.75  (2.0 s per step)",
        "",  # the status is gone, and the cursor stands below
    ]
    spark = rows[0].split()[-1]
    assert (len(spark), spark[0], spark[-1]) == (24, "▁", "█")
    assert max(cell_len(line) for line in last) <= min(columns, 100)


@pytest.mark.parametrize("columns", [24, 40])
def test_nothing_is_cut_off_on_a_narrow_terminal(columns, screens):
    screen = screens(columns)
    with Progress(150, "title", True, screen.stream) as progress:
        progress.update(EVALUATION)
        for step in range(1, 76):
            progress.update({"step": step, **METRICS, "reward/mean": step / 100})
    last = [line.rstrip() for line in screen.frames()[-1]]
    assert max(cell_len(line) for line in last) <= columns
    words = " ".join(last[2:]).split()
    for name in ("reward", "held-out", "staleness", "tokens/s", "time", "overlap"):
        assert name in words
    assert "".join(words).count("▁") + "".join(words).count("█") >= 2
    assert "(95% interval 0.200 to 0.300)" in " ".join(words)
    assert "…" not in " ".join(words)


def test_a_resumed_run_goes_on_where_it_was():
    stream = io.StringIO()
    with Progress(150, "title", True, stream) as progress:
        progress.remember([EVALUATION, *({"step": step, **METRICS} for step in range(1, 76))])
        assert stream.getvalue() == "title\n", "what was shown is not shown again"
        assert progress._rows()[1] == ("held-out", "0.250  (95% interval 0.200 to 0.300)")
        progress.update({"step": 76, **METRICS, "reward/mean": 0.9})
        assert progress._rows()[0] == ("reward", "0.900  " + "▁" * 23 + "█")
    assert stream.getvalue().splitlines()[1].startswith("step 76/150  reward 0.900")


def test_display_is_one_and_is_redrawn_at_leisure(screens):
    screen = screens()
    with Progress(5000, "title", True, screen.stream) as progress:
        for step in range(1, 5001):
            progress.update({"step": step, **METRICS})
    assert len(screen.frames()) < 2000  # redrawn by the clock, not by each update
    assert "5000/5000" in "\n".join(screen.frames()[-1])


def test_message_stands_above_the_display_in_one_piece(screens):
    screen = screens()
    path = "/runs/" + "x" * 100
    with Progress(2, "title", True, screen.stream) as progress:
        progress.update({"step": 1})
        progress.message(f"model: [dim]{path}")
    text = "\n".join(line for frame in screen.frames() for line in frame)
    assert f"model: [dim]{path}\n" in text
    assert text.rindex("title") > text.index("model:")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_terminal_is_given_back_after_an_error(error, screens):
    screen = screens()
    before = set(threading.enumerate())
    with pytest.raises(error), Progress(2, "title", True, screen.stream):
        raise error
    started = set(threading.enumerate()) - before
    for thread in (t for t in started if "refresh" in type(t).__name__.lower()):
        thread.join(30)  # told to stop, it may still be asleep or wait for its turn
        assert not thread.is_alive(), "rich's thread has ended"
    written = screen.close()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor shows again


def test_terminal_that_cannot_move_its_cursor_gets_lines(screens, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = screens()
    with Progress(2, "title", True, screen.stream) as progress:
        progress.update({"step": 1, "reward/mean": 0.5})
    assert screen.close() == "title\r\nstep 1/2  reward 0.500\r\n"


def test_sparkline():
    assert sparkline([], 8) == ""
    assert sparkline([3.0], 8) == "▁"
    assert sparkline([0.0, 1.0], 8) == "▁█"
    assert sparkline([float(i) for i in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([float(i) for i in range(801)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0] * 50, 8) == "▁" * 8
