r"""The mathematics verifier: equivalent forms agree, nonsense is wrong, a hung check harms nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal import faults
from areal.rewards.answers import boxed_answer, reference_answer
from areal.rewards.math import MathVerifier, VerifierError, _CheckerProcess

HANGS = r"\sum_{k=1}^{10^{10}} k!"
"""sympy works on this for longer than anyone waits."""
ASKED = (r"\max(1, 3)", "3")
"""A pair that a worker has to judge."""


@pytest.fixture(scope="module")
def verifier():
    made = MathVerifier(workers=2, time_limit=1.5)
    yield made
    made.close()


HALF = ["1/2", "0.5", r"\frac12", r"\frac{1}{2}", r"50\%", r"\dfrac{2}{4}", "2^{-1}", ".5"]


@pytest.mark.parametrize(("left", "right"), itertools.permutations(HALF, 2))
def test_equivalent_forms_agree(verifier: MathVerifier, left: str, right: str):
    assert verifier.equivalent(left, right)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("2", "1/2"),
        ("-1/2", "1/2"),
        ("", "0"),
        ("x", "1"),
        (r"\frac{", "1/2"),
        ("}}}}{{{{", "3"),
        ("Ω≈ç√∫", "3"),
        ("1,2", "2,1,3"),
        ("\x00\ud800", "3"),
        ("9" * 5000, "9"),
        ("__import__('os').system('touch /tmp/x')", "0"),
    ],
)
def test_wrong_or_unreadable_is_wrong(verifier: MathVerifier, answer: str, target: str):
    assert verifier.equivalent(answer, target) is False


@pytest.mark.parametrize(
    ("answer", "target"),
    [("007", "7"), ("+7", "7"), (" 7 ", "7"), ("1,234", "1234"), (r"(1, \infty)", r"(1,\infty)")],
)
def test_right(verifier: MathVerifier, answer: str, target: str):
    assert verifier.equivalent(answer, target)


@given(st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_integers_are_exact(a: int, b: int):
    assert MathVerifier().equivalent(str(a), str(b)) == (a == b)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_no_text_is_an_error(text: str):
    assert SHARED.equivalent(text, "12345678901/7") in (True, False)


SHARED = MathVerifier(workers=1)


def test_parentheses_without_end_are_wrong_and_keep_no_worker_busy():
    verifier = MathVerifier(workers=0)  # whoever asks a worker waits for ever
    for opening, closing in ("()", "{}", ("\\sqrt{", "}"), ("[", "")):
        assert verifier.equivalent(opening * 200 + "x+y" + closing * 200, r"\frac{x}{2}") is False


def test_a_hung_check_harms_no_other(verifier: MathVerifier):
    """With as many hung checks as workers, others still get their verdicts, in order of the time limit."""
    with ThreadPoolExecutor(6) as threads:
        hung = [threads.submit(verifier.equivalent, HANGS, "1/3") for _ in range(2)]
        fine = [threads.submit(verifier.equivalent, *ASKED) for _ in range(4)]
        assert [f.result() for f in fine] == [True] * 4
        assert [h.result() for h in hung] == [False] * 2
    assert verifier.equivalent(*ASKED)


def busy(pid: int) -> float:
    """Return the processor time of a process, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@contextlib.contextmanager
def asked(verifier: MathVerifier) -> Iterator[tuple[int, Future[bool]]]:
    """Ask for what hangs; gives the worker that is at it, and the check."""
    assert verifier.equivalent(*ASKED)
    [pid] = [worker._process.pid for worker in verifier._idle]
    before = busy(pid)
    with ThreadPoolExecutor(1) as thread:
        check = thread.submit(verifier.equivalent, HANGS, "1/3")
        while busy(pid) < before + 0.3 and not check.done():
            time.sleep(0.02)
        yield pid, check
    verifier.close()


def test_a_killed_worker_is_replaced_and_its_check_done_again():
    verifier = MathVerifier(workers=1, time_limit=30)
    with asked(verifier) as (pid, check):
        verifier.time_limit = 1  # for the second attempt
        os.kill(pid, signal.SIGKILL)
        assert check.result() is False
        assert verifier.equivalent(*ASKED)


def test_a_check_whose_workers_are_all_killed_is_an_error_and_no_wrong_answer():
    """Whatever kills them, such as a kernel that is out of memory, it says nothing of the answer."""
    verifier = MathVerifier(workers=1, time_limit=30)
    with asked(verifier) as (_, check):
        while not check.done():
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any("math_worker" in word for word in child.cmdline()) and busy(child.pid) > 2:
                        child.kill()
            time.sleep(0.02)
        with pytest.raises(VerifierError, match="the math verifier"):
            check.result()


def test_a_worker_that_crashes_once_is_replaced_and_its_check_done_again():
    verifier = MathVerifier(workers=1, time_limit=30)
    failures = faults.counts()["verifier_faults"]
    with asked(verifier) as (pid, check):
        verifier.time_limit = 1  # for the second attempt
        os.kill(pid, signal.SIGSEGV)
        assert check.result() is False
    assert verifier.killed == 2, "the second one ended by its time limit"
    assert faults.counts()["verifier_faults"] == failures + 1


def test_an_answer_that_takes_down_each_worker_is_a_wrong_answer():
    """Else an answer could choose to be no answer; the workers judge another pair well in between."""
    verifier = MathVerifier(workers=1, time_limit=30)
    with asked(verifier) as (_, check):
        while not check.done():
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any("math_worker" in word for word in child.cmdline()) and busy(child.pid) > 2:
                        child.send_signal(signal.SIGSEGV)
            time.sleep(0.02)
        assert check.result() is False
    assert verifier.killed == 3


def test_workers_that_cannot_load_are_an_error_and_no_wrong_answer():
    verifier = MathVerifier(workers=1, memory=50 << 20)
    with pytest.raises(
        VerifierError, match="3 times in one check, the last time because of a worker that did not start"
    ):
        verifier.equivalent(*ASKED)


def test_a_worker_that_stood_still_goes_on():
    """The time of a check is its processor's: of a stopped machine nothing counts."""
    verifier = MathVerifier(workers=1, time_limit=1)
    assert verifier.equivalent(*ASKED)
    [pid] = [worker._process.pid for worker in verifier._idle]
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        check = thread.submit(verifier.equivalent, r"\max(2, 5)", "5")
        time.sleep(2)
        os.kill(pid, signal.SIGCONT)
        assert check.result() is True
    assert verifier.killed == 0
    verifier.close()


def test_a_worker_that_is_stopped_for_good_is_replaced_long_before_its_time_is_over():
    verifier = MathVerifier(workers=1, time_limit=1000)
    assert verifier.equivalent(*ASKED)
    [pid] = [worker._process.pid for worker in verifier._idle]
    os.kill(pid, signal.SIGSTOP)
    assert verifier.equivalent(r"\max(2, 5)", "5")
    assert verifier.killed == 1
    verifier.close()


STOPPED = """
import os, signal
from areal.rewards.math import MathVerifier
verifier = MathVerifier(workers=1)
assert verifier.equivalent(r"\\max(2, 5)", "5")
[worker] = verifier._idle
os.kill(worker._process.pid, signal.SIGSTOP)
print(worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_stopped_does_not_outlive_a_process_that_is_killed():
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(60)


def test_a_verdict_that_came_while_this_process_stood_still_is_read():
    worker = _CheckerProcess(2 << 30)
    assert worker._process.stdin is not None
    assert worker._process.stdout is not None
    worker._process.stdin.write(json.dumps({"answer": "5", "target": "5", "limit": 9}).encode() + b"\n")
    worker._process.stdin.flush()
    select.select([worker._process.stdout], [], [])
    assert worker._line(-1.0) == b"true\n"
    worker.kill()


def test_no_worker_outlives_its_parent(tmp_path: Path):
    """Not even one in the middle of a check that holds the interpreter, after a SIGKILL of the parent."""
    code = (
        "import sys, threading, time\nfrom areal.rewards.math import MathVerifier\n"
        f"v = MathVerifier(workers=2, time_limit=1)\nv.equivalent({ASKED[0]!r}, '3')\n"
        f"threading.Thread(target=v.equivalent, args=({HANGS!r}, '1/3')).start()\n"
        "time.sleep(0.3)\nimport psutil, json\n"
        "print(json.dumps([c.pid for c in psutil.Process().children(recursive=True)]), flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    children = [psutil.Process(pid) for pid in json.loads(process.stdout.readline())]
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_a_forked_child_has_workers_of_its_own():
    verifier = MathVerifier(workers=1)
    assert verifier.equivalent(*ASKED)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"1" if not verifier._idle and verifier.equivalent(*ASKED) else b"0")
        verifier.close()
        os._exit(0)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    assert verifier.equivalent(*ASKED)
    verifier.close()


def test_it_finds_what_is_installed_where_pythonpath_says(tmp_path: Path):
    """As ``pip install --target`` leaves it: this Python has nothing of its own."""
    venv.create(tmp_path, with_pip=False)
    code = f"from areal.rewards.math import MathVerifier; print(MathVerifier().equivalent(*{ASKED!r}))"
    places = [place for place in sys.path if "site-packages" in place]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *places])}
    python = str(tmp_path / "bin/python")
    found = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == "True\n", found.stderr


def test_a_verifier_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(VerifierError, match="did not start"):
        MathVerifier().equivalent(*ASKED)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{3}", "3"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\fbox{4}", "4"),
        (r"\boxed 5", "5"),
        (r"\boxed{ 6 }", "6"),
        (r"\boxed{}", ""),
        ("no box", None),
        ("", None),
    ],
)
def test_boxed_answer(text: str, answer: str | None):
    assert boxed_answer(text) == answer


@given(st.text(st.sampled_from("\\boxed{}#f 1"), max_size=200))
def test_boxed_answer_takes_any_text(text: str):
    assert boxed_answer(text) is None or isinstance(boxed_answer(text), str)


def test_boxed_answer_is_linear():
    """Sixteen times the text takes about sixteen times as long; a quadratic search would take 256 times."""

    def seconds(count: int) -> float:
        text = "\\boxed{" * count
        started = time.process_time()
        boxed_answer(text)
        return time.process_time() - started

    pairs = [(seconds(20_000), seconds(320_000)) for _ in range(5)]
    assert min(large / small for small, large in pairs) < 100


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 * 2 = 18\n#### 18", "18"),
        ("#### 1\n#### 1,000", "1,000"),
        (r"Therefore \boxed{42}.", "42"),
        ("42", "42"),
        ("words\nand more", None),
        ("####", None),
        ("  ", None),
    ],
)
def test_reference_answer(text: str, answer: str | None):
    assert reference_answer(text) == answer
