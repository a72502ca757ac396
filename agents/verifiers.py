"""``verifiers``: episodes of verifiers' environments, run by verifiers itself."""

from __future__ import annotations

import shlex
import sys
from typing import Literal

from areal.agents.interface import Settings
from areal.agents.program import Program
from areal.envs.verifiers import WORKER


class Verifiers(Program):
    """Runs the tasks of the environment ``verifiers-v1`` by verifiers' own harness, runtime and rewards.

    Args:
        workers: processes of verifiers, each of which runs one episode after the other.
        time_limit: seconds for one episode; then its process is killed.
        max_completions: how many completions one episode may sample.
        on_failure: what becomes of an episode that ends with an error of verifiers' after the model has said
            something, as for any program: ``punish`` or ``retry``.
        settings: what becomes of wishes for another sampling than the run's: ``ignore`` or ``refuse``.
    """

    def __init__(
        self,
        workers: int = 8,
        time_limit: float = 600.0,
        max_completions: int = 256,
        on_failure: Literal["punish", "retry"] = "punish",
        settings: Settings = "ignore",
    ) -> None:
        super().__init__(
            command=shlex.join([sys.executable, "-P", str(WORKER)]),
            workers=max(workers, 1),
            time_limit=time_limit,
            max_completions=max_completions,
            on_failure=on_failure,
            settings=settings,
        )
