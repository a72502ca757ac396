"""What a hostile process at the other end of a connection may say about its own end, and in its answers."""

from __future__ import annotations

import base64
import time

import pytest

from areal.sandbox import drive, frames
from areal.sandbox.guest import MAX_MESSAGE, MAX_TRACE
from areal.sandbox.interface import Raised, SandboxLimits
from areal.sandbox.process import Ended
from areal.sandbox.remote import RemoteRun


class Scripted:
    """A connection over which these lines arrive, and then nothing."""

    def __init__(self, *lines: tuple[bytes, bytes]) -> None:
        self.data = b"".join(letter + b" " + base64.b64encode(data) + b"\n" for letter, data in lines)

    def send(self, data: bytes) -> None:
        pass

    def receive(self, timeout_s: float) -> bytes | None:
        data, self.data = self.data, b""
        return data or None

    def lost(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (b'{"status": 1e400, "cpu_s": 0}', "protocol_error"),
        (b'{"status": 0, "cpu_s": "x"}', "protocol_error"),
        (b'{"status": null, "cpu_s": 0}', "protocol_error"),
        (b'{"cpu_s": 0}', "protocol_error"),
        (b"[1]", "protocol_error"),
        (b"{" * 100, "protocol_error"),
        (b'{"status": 40, "cpu_s": 0}', "crashed"),
        (b'{"status": 127, "cpu_s": 0}', "no_result"),
        (b'{"status": 11, "cpu_s": 0}', "crashed"),
        (b'{"status": 9, "cpu_s": NaN}', "memory"),
    ],
)
def test_any_report_of_an_end_is_an_end(report: bytes, status: str):
    run = RemoteRun(Scripted((b"x", report)), SandboxLimits(), b"", cut_output=False)
    with pytest.raises(Ended) as ended:
        run.receive(time.monotonic() + 1)
    assert ended.value.status == status


def test_long_texts_in_an_answer_are_cut():
    answer = frames.unpack(frames.pack("raised", ("K" * 10**5,) * 1000, "m" * 10**5, "t" * 10**5)[4:])
    raised = drive.result(*answer)
    assert isinstance(raised, Raised)
    assert len(raised.message) == MAX_MESSAGE
    assert len(raised.trace) == MAX_TRACE
    assert sum(map(len, raised.type_names)) <= 64 * MAX_MESSAGE
