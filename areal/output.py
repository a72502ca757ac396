"""Standard output that may be gone: a full disk, or a pipe that nobody reads any more."""

from __future__ import annotations

import io
import sys
from typing import Any


class Output(io.FileIO):
    """Descriptor 1.

    Attributes:
        lost: why it could not be written; from then on what is written is dropped, as Python does at its end.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, until that fails once."""
        if self.lost is not None:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self.lost = error
            raise


def watched_output() -> Output | None:
    """Let ``sys.stdout`` write to descriptor 1 through an :class:`Output`, if it writes there at all."""
    stream = sys.stdout
    if stream is not sys.__stdout__ or not isinstance(stream, io.TextIOWrapper):
        return None  # it was closed, or is somebody's own
    output = Output(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output), stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )
    return output
