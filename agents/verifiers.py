"""``verifiers``: episodes of verifiers' environments, which verifiers itself runs."""

from __future__ import annotations

import shlex
import sys
from typing import Literal

from areal.agents.interface import Settings
from areal.agents.program import Program
from areal.envs.verifiers import WORKER


class Verifiers(Program):
    """Runs the tasks of the environment ``verifiers-v1`` with verifiers' own harness, runtime and rewards.

    Args:
        workers: number of verifiers processes, each of which runs one episode after another.
        time_limit: time limit of one episode, in seconds; its process is then killed.
        max_completions: maximum number of completions in one episode.
        on_failure: how to treat an episode that ends with an error of verifiers after a response of the
            model, as for any program: ``punish`` or ``retry``.
        settings: how to treat requests for sampling other than that of the run: ``ignore`` or ``refuse``.
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
