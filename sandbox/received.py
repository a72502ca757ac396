"""What has come from a process that may be hostile: frames of results, and output, each up to its limit."""

from __future__ import annotations

from .frames import HEADER
from .interface import SandboxLimits
from .process import CapturedOutput, Ended


class Received:
    """Cuts results into frames, keeps output, and counts both.

    Args:
        limits: of results, all together, and of each stream of output, in bytes.
        cut_output: throw away output beyond the limit, rather than raise Ended.
    """

    def __init__(self, limits: SandboxLimits, cut_output: bool) -> None:
        self.cut_output = cut_output
        self._limits = limits
        self._total = 0
        self._pending = bytearray()
        self._output = {"stdout": bytearray(), "stderr": bytearray()}

    def add_results(self, data: bytes) -> None:
        """Take in a piece of the stream of frames; raises Ended if it has passed its limit."""
        self._total += len(data)
        if self._total > self._limits.result_bytes:
            raise Ended("output_limit", f"more than {self._limits.result_bytes} bytes of results")
        self._pending += data

    def next_frame(self) -> bytes | None:
        """Return the body of the next complete frame, or ``None``; raises Ended if it announces too much."""
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
        """Say whether the results stopped within a frame."""
        return bool(self._pending)

    def add_output(self, stream: str, data: bytes) -> None:
        """Take in a piece of ``stdout`` or ``stderr``; raises Ended if there is too much."""
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
