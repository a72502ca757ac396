"""Threads for calls that may never return."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from areal.threads import CallThread


def test_giving_up_a_call_that_has_just_returned_ends_the_thread(monkeypatch: pytest.MonkeyPatch):
    uncaught: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    thread = CallThread("test")
    returned = threading.Event()
    outcome = thread.start(returned.wait)
    # Called by the thread, which is just handing over the result.
    outcome.add_done_callback(lambda _: thread.give_up())
    returned.set()
    assert outcome.result(10) == (True, None)
    thread._thread.join(10)
    assert not thread.alive
    assert not uncaught
