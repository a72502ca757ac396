"""What Ctrl-C, SIGTERM and SIGHUP do, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WAITING = """
import asyncio, signal, sys
from areal.runtime.signals import on_signals

async def main():
    event = asyncio.Event()
    release = on_signals(lambda: print("first", flush=True), event.set)
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)
    await event.wait()
    release()
    print("second", flush=True)

asyncio.run(main())
"""


def waiting(*before: str, hangup_ignored: bool = False) -> subprocess.Popen[str]:
    # Whoever runs the tests may ignore signals, as nohup does.
    command = ["env", "--default-signal=INT,HUP", *before, sys.executable, "-c", WAITING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{hangup_ignored}\n"
    return process


@pytest.mark.parametrize(
    ("number", "other"), [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)]
)
def test_the_first_one_asks_and_the_second_insists(number: signal.Signals, other: signal.Signals):
    with waiting() as process:
        assert process.stdout is not None
        process.send_signal(number)
        assert process.stdout.readline() == "first\n"
        process.send_signal(other)
        assert process.communicate(timeout=60)[0] == "second\n"
    assert process.returncode == 0


def test_a_run_under_nohup_outlives_its_terminal():
    with waiting("nohup", hangup_ignored=True) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "second\n"
