"""An engine's end of the weight transfer alone, as a worker: no engine is needed to see what arrives."""

from __future__ import annotations

from typing import Any

import torch

from areal.weights.broadcast import BroadcastReceiver
from areal.weights.interface import Receiver
from areal.weights.layout import WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver


class Receiving:
    """Receives; what it has is seen by its first element."""

    _receiver: Receiver | None = None

    def connect(self, info: dict[str, Any]) -> None:
        """Open this end, in place of the one before."""
        self.close()
        kind = {"broadcast": BroadcastReceiver, "shared memory": SharedMemoryReceiver}[info["backend"]]
        self._receiver = kind(info["address"], WeightLayout.from_dict(info["layout"]), torch.device("cpu"))

    def receive(self) -> float:
        """Take part in a transfer; return the value that all elements have."""
        assert self._receiver is not None
        self._receiver.receive()
        values = {float(value) for _, tensor in self._receiver.tensors for value in tensor.unique()}
        [value] = values
        return value

    def close(self) -> None:
        """Close this end."""
        if self._receiver is not None:
            self._receiver.close()
