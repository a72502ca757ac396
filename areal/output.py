"""Standard output that may become unwritable: a full disk, or a pipe without a reader."""

from __future__ import annotations

import io
import sys
from typing import Any


class Output(io.FileIO):
    """Descriptor 1.

    Attributes:
        lost: why a write failed; further writes are dropped, as Python does at exit.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, until a write fails."""
        if self.lost is not None:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self.lost = error
            raise


def watched_output() -> Output | None:
    """Redirect ``sys.stdout`` to descriptor 1 through an :class:`Output`, if it writes there."""
    stream = sys.stdout
    if stream is not sys.__stdout__ or not isinstance(stream, io.TextIOWrapper):
        return None  # it is closed, or other code has replaced it
    output = Output(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output), stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )
    return output
