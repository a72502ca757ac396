"""Environments in Ray's workers, which find them as areal does: by id, of an installed package, from a file.

pip install 'areal-gym[ray]'
python examples/ray_env.py math-v1 my_env.py:MyEnv

A worker on another machine needs what the name means: the package installed there, or the file at the same
place (Ray's runtime_env has working_dir and pip for that). How areal itself trains on a cluster is another
matter: docs/cluster.md.
"""

from __future__ import annotations

import sys
from typing import Any

import ray

from areal.registry import make_env


@ray.remote
class EnvWorker:
    """One environment, in a process of Ray's."""

    def __init__(self, name: str, **options: Any) -> None:
        self._env = make_env(name, **options)

    def run_episode(self, action: str, **task: Any) -> tuple[str, float]:
        """Run an episode of one answer; return what was asked, and what the answer earned."""
        observation, _ = self._env.reset(**task)
        return observation, float(self._env.step(action)[1])


if __name__ == "__main__":
    # "local": else Ray joins a cluster that somebody has started on this machine.
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    for name in sys.argv[1:]:
        asked, reward = ray.get(EnvWorker.remote(name).run_episode.remote("\\boxed{42}", seed=0))
        print(f"{name}: {asked!r} earned {reward:g}")
