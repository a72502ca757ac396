"""Data from a process that may be hostile: frames of results, and output, each up to its limit."""

from __future__ import annotations

from .frames import HEADER
from .interface import SandboxLimits
from .process import CapturedOutput, Ended


class Received:
    """Splits results into frames, stores output, and counts both.

    Args:
        limits: limits of all results together, and of each output stream, in bytes.
        cut_output: discard output beyond the limit, instead of raising Ended.
    """

    def __init__(self, limits: SandboxLimits, cut_output: bool) -> None:
        self.cut_output = cut_output
        self._limits = limits
        self._total = 0
        self._pending = bytearray()
        self._output = {"stdout": bytearray(), "stderr": bytearray()}

    def add_results(self, data: bytes) -> None:
        """Add data to the stream of frames; raises Ended if it exceeds its limit."""
        self._total += len(data)
        if self._total > self._limits.result_bytes:
            raise Ended("output_limit", f"more than {self._limits.result_bytes} bytes of results")
        self._pending += data

    def next_frame(self) -> bytes | None:
        """Return the body of the next complete frame, or ``None``; raises Ended if the frame is too large."""
        if len(self._pending) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._pending)
        if length > self._limits.result_bytes:
            raise Ended("output_limit", f"a frame of {length} bytes")
        end = HEADER.size + length
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[HEADER.size : end])
        del self._pending[:end]
        return body

    @property
    def partial(self) -> bool:
        """Whether the results stopped within a frame."""
        return bool(self._pending)

    def add_output(self, stream: str, data: bytes) -> None:
        """Add data of ``stdout`` or ``stderr``; raises Ended if there is too much."""
        kept = self._output[stream]
        kept += data
        if len(kept) > self._limits.output_bytes:
            del kept[self._limits.output_bytes :]
            if not self.cut_output:
                raise Ended("output_limit", f"more than {self._limits.output_bytes} bytes of output")

    def take_output(self) -> CapturedOutput:
        """Return the output since the last call."""
        output = CapturedOutput(*map(bytes, self._output.values()))
        for kept in self._output.values():
            kept.clear()
        return output
