"""What reaches the screen during a run, and what reaches the files.

The descriptors of the test process belong to pytest, so most of this runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from areal.errors import EngineLost, Interrupted, UserError
from areal.telemetry.logs import capture
from areal.telemetry.run_directory import RunDirectory

PRELUDE = """
import logging, os, subprocess, sys
from pathlib import Path
from areal.errors import Interrupted, UserError
from areal.telemetry.logs import capture
from areal.telemetry.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
def everything(name):
    print(name, "print")
    sys.stderr.write(name + " stderr\\n")
    os.write(1, (name + " fd1\\n").encode())
    subprocess.run([sys.executable, "-c", f"import sys; print('{name} child'); sys.exit('{name} child err')"])
"""
KINDS = ("print", "stderr", "fd1", "child", "child err")


def play(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_output_goes_to_the_engine_log_and_comes_back_after(tmp_path):
    done = play(
        tmp_path,
        """
        everything("before")
        with capture(run) as terminal:
            everything("during")
            terminal.write("on the screen\\n")
        everything("after")
        """,
    )
    assert done.returncode == 0
    engine, shown = (tmp_path / "engine.log").read_text(), done.stdout + done.stderr
    assert sorted(engine.splitlines()) == sorted(f"during {kind}" for kind in KINDS)
    expected = [f"{name} {kind}" for name in ("before", "after") for kind in KINDS]
    assert sorted(shown.splitlines()) == sorted([*expected, "on the screen"])
    assert "on the screen" in done.stderr


def test_logs_are_added_to(tmp_path):
    code = "with capture(run): print('once', flush=True); logging.getLogger('areal.x').info('noted')"
    for _ in range(2):
        play(tmp_path, code)
    assert (tmp_path / "engine.log").read_text() == "once\nonce\n"
    assert (tmp_path / "areal.log").read_text().count("INFO areal.x: noted") == 2


def test_terminal_knows_whether_it_is_one(tmp_path):
    master, slave = os.openpty()
    code = PRELUDE + "with capture(run) as t: raise SystemExit(10 + t.isatty())"
    command = [sys.executable, "-c", code, str(tmp_path)]
    try:
        assert subprocess.run(command, stderr=slave, check=False).returncode == 11
    finally:
        os.close(master)
        os.close(slave)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 10


def test_error_leaves_the_files_and_prints_nothing(tmp_path):
    done = play(
        tmp_path,
        """
        try:
            with capture(run):
                everything("during")
                raise RuntimeError("boom")
        except RuntimeError:
            pass
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len((tmp_path / "engine.log").read_text().splitlines()) == len(KINDS)


def test_without_a_directory_an_error_shows_the_end_of_the_output(tmp_path):
    done = play(
        tmp_path,
        """
        with capture(None):
            for i in range(100): print("line", i)
            raise RuntimeError("boom")
        """,
    )
    assert done.stdout == ""
    shown, _, traceback = done.stderr.partition("Traceback")
    assert shown.splitlines() == [f"line {i}" for i in range(60, 100)]
    assert "boom" in traceback
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["UserError('x')", "Interrupted('x')", "KeyboardInterrupt()", "None"])
def test_without_a_directory_nothing_is_shown_otherwise(tmp_path, error):
    done = play(
        tmp_path,
        f"""
        try:
            with capture(None):
                everything("during")
                if {error}: raise {error}
        except (UserError, Interrupted, KeyboardInterrupt): pass
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_engine_printed_explains_its_failure(tmp_path, kept):
    run = RunDirectory(tmp_path)
    run.engine_log.write_text("OSError: of an earlier run\n")
    with pytest.raises(EngineLost) as silent, capture(run if kept else None):
        raise EngineLost("vLLM has died")
    place = f"; {tmp_path}/engine.log has all output" if kept else ""
    assert (
        str(silent.value) == "vLLM has died without an error message, usually because memory ran out" + place
    )
    printed = [
        "an answer: KeyError: 'x'",
        "(EngineCore pid=7) ERROR 11-28 04:29:35 [core.py:1] torch.OutOfMemoryError: CUDA out of memory.",
        "(EngineCore pid=7) Process EngineCore:",
        "(MainProcess pid=1) ERROR 11-28 04:29:35 [a.py:2] x.EngineDeadError: EngineCore encountered",
    ]

    def fail(failure: str = "vLLM did not start") -> None:
        os.write(2, "\n".join(printed).encode())
        raise EngineLost(failure)

    with pytest.raises(EngineLost) as raised, capture(run if kept else None):
        fail()
    last = "; the last error in its output: torch.OutOfMemoryError: CUDA out of memory."
    assert str(raised.value) == "vLLM did not start" + last + place
    printed.append("\nFatal Python error: Segmentation fault\n\nThread 0x01 (most recent call first):")
    with (
        pytest.raises(EngineLost, match=r"in its output: Fatal Python error: Segmentation fault$"),
        capture(None),
    ):
        fail()
    failure = "vLLM cannot load version 3 of the weights: no attribute 'lm_head'"
    with pytest.raises(EngineLost) as known, capture(run if kept else None):
        fail(failure)
    assert str(known.value) == failure + place, "it has said its cause itself"


def test_works_where_stdout_is_no_file(tmp_path):
    """A notebook: Python's streams are objects without descriptor, and what counts is what they get."""
    done = play(
        tmp_path,
        """
        import io
        class Cell(io.StringIO):
            def fileno(self): raise io.UnsupportedOperation("fileno")
        real, sys.stdout, sys.stderr = sys.stdout, Cell(), Cell()
        with capture(run) as terminal:
            assert terminal is sys.stderr
            terminal.write("shown")
            print("cell")
            os.system("echo child")
        assert sys.stdout.getvalue() == "cell\\n" and sys.stderr.getvalue() == "shown"
        sys.stderr.write(" still open")
        real.write("fine")
        """,
    )
    assert (done.returncode, done.stdout) == (0, "fine")
    assert (tmp_path / "engine.log").read_text() == "child\n"


def test_works_below_pytest(tmp_path):
    run = RunDirectory(tmp_path)
    with capture(run) as terminal:
        subprocess.run(["echo", "child"], check=True)
        terminal.write("")
    assert run.engine_log.read_text() == "child\n"


@pytest.mark.parametrize(
    "error", [None, UserError("x"), Interrupted("x"), asyncio.CancelledError(), ValueError("x")]
)
@pytest.mark.parametrize("kept", [True, False])
def test_leaves_the_process_as_it_was(tmp_path, error, kept):
    def state():
        logger = logging.getLogger("areal")
        descriptors = {fd: os.fstat(fd).st_ino for fd in (1, 2)}
        return logger.level, logger.propagate, list(logger.handlers), descriptors

    def opened() -> set[tuple[str, int]]:
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the folder's own
                found.add((fd, os.fstat(int(fd)).st_ino))
        return found

    before, opened_before = state(), opened()
    try:
        with capture(RunDirectory(tmp_path) if kept else None):
            assert state() != before
            if error is not None:
                raise error
    except type(error or ValueError()):
        pass
    assert state() == before
    assert opened() <= opened_before  # what tests before this one have left open may be closed meanwhile


def test_package_log_takes_ours_and_nothing_else(tmp_path, caplog):
    run = RunDirectory(tmp_path)
    with capture(run):
        logging.getLogger("areal.rollout").info("kept")
        logging.getLogger("areal.rollout").debug("too fine")
        logging.getLogger("other").warning("not ours")
    logging.getLogger("areal.rollout").info("too late")
    [line] = run.log_file.read_text().splitlines()
    assert line.endswith("INFO areal.rollout: kept")
    assert "kept" not in caplog.text


def test_files_that_cannot_be_written_are_explained(tmp_path):
    with pytest.raises(UserError, match="cannot write"), capture(RunDirectory(tmp_path / "gone")):
        pass
    (tmp_path / "areal.log").mkdir()
    with pytest.raises(UserError, match="cannot write"), capture(RunDirectory(tmp_path)):
        pass
