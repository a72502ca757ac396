"""The part on another machine or in a container: it starts the guest and carries its messages.

There is one connection, with a standard input and a standard output. The input is sent to the guest
unchanged. The output consists of lines, each with a letter and the data in base64: ``f`` from the guest's
pipe of frames, ``o`` and ``e`` from its standard output and error, and at its end ``x`` with how it ended, as
JSON.

It runs as the same user as the code under test, which may kill it or write its own lines. Nothing depends on
it: the other end parses the output as strictly as the guest's own messages.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import signal
from typing import Any, NoReturn

from . import frames, guest

_CHUNK = 1 << 15
_WORK_FOLDER = "/tmp"
_PR_SET_PDEATHSIG = 1


def main(options: dict[str, Any]) -> NoReturn:
    """Run the guest until it ends, or until the connection does."""
    pipes = [os.pipe() for _ in range(guest.PLACES)]
    guest_reads = (guest.STDIN, guest.INCOMING)
    ends = [pipe if place in guest_reads else pipe[::-1] for place, pipe in enumerate(pipes)]
    theirs, ours = map(list, zip(*ends, strict=True))
    tender, child = os.getpid(), os.fork()
    if child == 0:
        _die_with(tender)
        _be_guest(theirs, options["rations"])
    for descriptor in theirs:
        os.close(descriptor)
    _Tender(child, ours, base64.b64decode(options["stdin"])).run()
    os._exit(0)


def _die_with(parent: int) -> None:
    """Let the kernel end this process when its parent ends, for any reason, because nothing else would."""
    # If there is no such call, the machine or the container ends with the tender.
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _be_guest(pipes: list[int], rations: dict[str, int]) -> NoReturn:
    try:
        # First move it away from the places of the pipes.
        moved = [_move_up(descriptor) for descriptor in pipes]
        for place, descriptor in enumerate(moved):
            os.dup2(descriptor, place)
        os.closerange(guest.PLACES, 1024)
        for name, value in rations.items():
            number = getattr(resource, name)
            _, hard = resource.getrlimit(number)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))
        os.chdir(_WORK_FOLDER)
        os.environ.clear()
        os.environ.update({"HOME": _WORK_FOLDER, "TMPDIR": _WORK_FOLDER, "LANG": "C.UTF-8"})
        guest.prepare()
        os.write(guest.OUTGOING, frames.pack("ready"))
        guest.serve(guest.Channel(os.fdopen(guest.INCOMING, "rb"), guest.OUTGOING))
    finally:
        os._exit(1)


def _move_up(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64)


class _Tender:
    """Carries input and output; ``pipes`` are our ends of the guest's, in the order of their places."""

    def __init__(self, child: int, pipes: list[int], stdin: bytes) -> None:
        self._child = child
        self._stdin, stdout, stderr, self._incoming, outgoing = pipes
        self._letters = {stdout: b"o", stderr: b"e", outgoing: b"f"}
        self._unsent = {self._stdin: bytearray(stdin), self._incoming: bytearray()}
        self._open = set(pipes)
        self._poll = select.poll()
        for descriptor in pipes:
            os.set_blocking(descriptor, False)
        for descriptor in (0, *self._letters):
            self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._stdin, select.POLLOUT)
        # The end of the child wakes the poll.
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._woken = wake
        self._poll.register(wake, select.POLLIN)

    def run(self) -> None:
        """Carry data until the child or the connection ends."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._woken:
                    pid, status, usage = os.wait4(self._child, os.WNOHANG)
                    if pid:
                        self._finish(status, usage.ru_utime + usage.ru_stime)
                        return
                elif descriptor == 0:
                    data = os.read(0, _CHUNK)
                    if not data:
                        os.kill(self._child, signal.SIGKILL)
                        return
                    self._unsent[self._incoming] += data
                    self._write(self._incoming)
                elif descriptor in self._unsent:
                    self._write(descriptor)
                else:
                    self._carry(descriptor)

    def _write(self, descriptor: int) -> None:
        unsent = self._unsent[descriptor]
        if descriptor not in self._open:
            return
        try:
            del unsent[: os.write(descriptor, unsent[:_CHUNK])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            unsent.clear()
            self._shut(descriptor)
            return
        if unsent:
            self._poll.register(descriptor, select.POLLOUT)
        elif descriptor == self._stdin:
            self._shut(descriptor)
        else:
            self._poll.register(descriptor, 0)

    def _carry(self, descriptor: int) -> None:
        data = os.read(descriptor, _CHUNK)
        if self._letters[descriptor] == b"f":
            # Output that the guest printed before its result is also sent before it.
            self._carry_all(b"oe")
        if data:
            _say(self._letters[descriptor], data)
        else:
            self._shut(descriptor)

    def _carry_all(self, letters: bytes) -> None:
        """Carry the data in the pipes of these letters."""
        for descriptor, letter in self._letters.items():
            try:
                while letter in letters and descriptor in self._open:
                    self._carry(descriptor)
            except BlockingIOError:
                # Its other end is open, and there is no more data at present.
                continue

    def _shut(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)

    def _finish(self, status: int, cpu_s: float) -> None:
        """Carry the remaining data of the child, then report how it ended."""
        self._carry_all(b"oef")
        _say(b"x", json.dumps({"status": status, "cpu_s": cpu_s}).encode())


def _say(letter: bytes, data: bytes) -> None:
    line = memoryview(letter + b" " + base64.b64encode(data) + b"\n")
    while line:
        line = line[os.write(1, line) :]


# The program for a machine that only has Python; it reads the rest from its input.
LOADER = """
import json, os, sys, types
def read(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more: os._exit(1)
        data += more
    return data
options = json.loads(read(int(read(8))))
package = types.ModuleType("areal_guest")
package.__path__ = []
sys.modules["areal_guest"] = package
for name, source in options["modules"]:
    module = types.ModuleType("areal_guest." + name)
    module.__package__, module.__file__ = "areal_guest", "<areal " + name + ">"
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
sys.modules["areal_guest.tender"].main(options)
"""
MODULES = ("codec", "frames", "scope", "guest", "tender")
"""Files that are sent to LOADER, in the order in which it needs them."""
