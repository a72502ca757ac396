"""``verifiers-v1``: the tasks of an environment of the package verifiers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium

from areal.envs.text import UnicodeText
from areal.errors import UserError

WORKER = Path(__file__).with_name("verifiers_worker.py")
"""A persistent command that runs episodes of these tasks."""
_HELD_OUT = 10
"""If no tasks are held out explicitly, the last of every ten tasks is."""
_LOADING = 1800.0
"""Time limit in seconds for loading a taskset, which may download its data."""


class VerifiersEnv(gymnasium.Env[str, str]):
    """Provides the tasks of a taskset of verifiers; the agent ``verifiers`` runs their episodes.

    Args:
        taskset: verifiers' id of the taskset, from an installed package or from verifiers itself.
        config: further options that verifiers accepts as ``--env.…``, such as ``{agent: {max_turns: 8}}``.
            Unless these or the taskset choose otherwise, an episode is a plain chat (harness ``null``) on
            this machine (``subprocess``).
        test: options that differ for held-out tasks, such as ``{taskset: {split: test}}``; None: one task in
            ten is held out.
        python: the interpreter of the environment in which verifiers is installed; None: areal's own.

    Attributes:
        notices: notes for the user on the number of tasks.

    Raises:
        UserError: the interpreter does not exist or lacks verifiers, the taskset does not exist, or it does
            not accept the options.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        taskset: str | None = None,
        config: dict[str, Any] | None = None,
        test: dict[str, Any] | None = None,
        python: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        if taskset is None:
            raise UserError("verifiers-v1 needs a taskset; set env_options.taskset=ID")
        self.observation_space = UnicodeText(2**20)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._python = _interpreter(python)
        own = _merged(config or {}, {"taskset": {"id": taskset}})
        self._configs = {"train": own, "test": own if test is None else _merged(own, test)}
        self._all = {split: _count(self._python, json.dumps(c)) for split, c in self._configs.items()}
        self._shares = test is None
        train, held = (self.count(split) for split in ("train", "test"))
        self.notices = (f"taskset {taskset}: {_said(train)} training tasks, {_said(held)} held out",)

    def count(self, split: str) -> int | None:
        """Return the number of tasks in a split; None: unlimited."""
        number = self._all[split]
        if number is None or not self._shares:
            return number
        held = min(number, max(1, number // _HELD_OUT))
        return held if split == "test" else number - held

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Return a task in the form of the worker; ``options`` contains its index and split."""
        super().reset(seed=seed)
        options = options or {}
        split = str(options.get("split", "train"))
        count = self.count(split)
        index = options.get("index")
        if index is None:
            index = int(self.np_random.integers(2**31 if count is None else count))
        place = self._place(split, int(index))
        return json.dumps({"python": self._python, "env": self._configs[split], "index": place}), {}

    def _place(self, split: str, index: int) -> int:
        """Return the index of a split's task in the taskset, which both splits may share."""
        if not self._shares:
            return index
        number = self._all[split]
        if number is not None and number < _HELD_OUT:  # the last one is held out
            return number - 1 if split == "test" else index
        if split == "test":
            return index * _HELD_OUT + _HELD_OUT - 1
        return index + index // (_HELD_OUT - 1)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Refuse: this environment has no steps of its own."""
        raise UserError("verifiers itself runs the episodes of verifiers-v1; add --agent verifiers")


def _interpreter(python: str | None) -> str:
    if python is None:
        if importlib.util.find_spec("verifiers") is None:
            raise UserError(
                "verifiers cannot be installed next to areal, because it would downgrade packages; create "
                "a separate environment for it (python -m venv DIR && DIR/bin/pip install verifiers uv), "
                "and set env_options.python=DIR/bin/python"
            )
        return sys.executable
    found = os.path.abspath(
        os.path.expanduser(python)
    )  # not resolved, because the link identifies the virtual environment
    if not os.access(found, os.X_OK) or os.path.isdir(found):
        raise UserError(f"verifiers-v1: env_options.python={python} is not an interpreter")
    return found


@cache
def _count(python: str, config: str) -> int | None:
    """Return the number of tasks, as the other interpreter reports it; None: unlimited."""
    words = [python, "-P", str(WORKER), "describe", json.dumps({"env": json.loads(config)})]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_LOADING, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"verifiers-v1: the taskset has not loaded after {_LOADING:g} s") from error
    except OSError as error:
        raise UserError(f"verifiers-v1: cannot run env_options.python={python}: {error}") from error
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"verifiers-v1: {python} exited with code {done.returncode}: {last}") from None
    if "error" in said:
        raise UserError(f"verifiers-v1: {said['error']}")
    count: int | None = said["count"]
    return count


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return both merged, including nested dicts; ``other`` takes precedence."""
    found = dict(one)
    for name, value in other.items():
        inner = found.get(name)
        found[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def _said(count: int | None) -> str:
    return "endless" if count is None else f"{count:,}"
