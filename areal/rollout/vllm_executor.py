"""vLLM's executor of several worker processes, with which the engine ends as soon as one of them ends.

vLLM itself first gives the other workers time to shut down. They wait for the dead one in a collective, so
the loss would not be reported for nine seconds.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

_SHARED_MEMORY = Path("/dev/shm")


class WorkersExecutor(MultiprocExecutor):
    """Runs the workers of a tensor-parallel engine."""

    def shutdown(self) -> None:
        """Shut down the workers; if one has died, end this process and all of them (areal.lifetime)."""
        if self.is_failed:
            os._exit(1)
        super().shutdown()

    @property
    def _on_cpu(self) -> bool:
        return self.vllm_config.device_config.device_type == "cpu"

    def _init_executor(self) -> None:
        if self._on_cpu and multiprocessing.parent_process() is not None:
            # A fork has all imports, and a process of vLLM has started with its preloaded libraries.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        super()._init_executor()

    def _post_init_executor(self) -> None:
        super()._post_init_executor()
        if self._on_cpu and self.vllm_config.parallel_config.node_rank == 0:  # it controls all workers
            self.collective_rpc(_unlink_shared_memory)


def _unlink_shared_memory(worker: Any) -> None:
    """Unlink the shared memory of CPU workers, which have mapped it; a killed one would leave it behind."""
    for path in _SHARED_MEMORY.glob(f"{os.environ['VLLM_DIST_IDENT']}*"):
        path.unlink(missing_ok=True)
