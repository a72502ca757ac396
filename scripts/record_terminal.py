"""Record what a command shows on a terminal: python scripts/record_terminal.py RECORDING.cast COMMAND ...

The format is asciicast (https://docs.asciinema.org/manual/asciicast/v2/). scripts/draw_terminal.py draws it.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time
from pathlib import Path

COLUMNS, ROWS = 100, 24


def record(path: Path, command: list[str]) -> int:
    """Run a command in a terminal of its own and write down when it printed what; return its exit status."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = time.monotonic()
    with path.open("w") as file:
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "command": " ".join(command)}
        file.write(json.dumps(header) + "\n")
        while True:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # Linux says so that the last process at the other end has gone
                break
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            event = (round(time.monotonic() - start, 3), "o", decoder.decode(data))
            file.write(json.dumps(event) + "\n")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(record(Path(sys.argv[1]), sys.argv[2:]))
