"""Kills the process that writes a checkpoint, or removes its run directory, at each moment.

It looks at what is left. Run by test_checkpoint.py: ``python kills.py WAY STRIDE FOLDER``; prints how many
calls there were.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dummy_batches import batch, group

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints
from areal.runtime.rollout_state import RolloutState

STARTER = resolve_model("starter")
UNSEEN = 3


def of(folder: Path, learner: Learner) -> Checkpoints:
    return Checkpoints(folder, learner, load_tokenizer(STARTER), 1, torch.float32)


def killed(again: bool, stride: int, folder: Path) -> None:
    learner, resumed = (Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1) for _ in range(2))
    learner.update(batch(0))
    kept = of(folder / "original", learner)
    kept.write(kept.stage(RolloutState()))
    learner.update(batch(1))
    kept = of(folder / "run", learner)
    finished = group(np.random.default_rng(0), 3)
    staged = kept.stage(RolloutState(outstanding={finished.id: (finished.version, finished)}))
    if again:
        kept.write(kept.stage(RolloutState()))
        shutil.copytree(folder / "run", folder / "original", dirs_exist_ok=True)
        shutil.rmtree(folder / "original" / "step-000001")
    for calls in range(0, 1000, stride):
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / "original", folder / "run", copy_function=os.link)
        ended = in_a_fork(lambda: kept.write(staged), partial(killed_after, calls))
        found = checkpoint.latest(folder / "run")
        assert found is not None, calls
        assert checkpoint.damage(found) == "", calls
        if ended == 0 or calls % 8 == 0:  # it takes most of the time
            checkpoint.load_learner(found, resumed)
            assert resumed.version == checkpoint.version_of(found)
        assert {p.name for p in found.iterdir()} == {
            *("learner", "model", "state.json", "groups.jsonl", "SHA256SUMS")
        }
        if ended == 0:
            break
        assert os.WIFSIGNALED(ended), calls
    assert list(checkpoint.load_rollouts(found).outstanding) == [3]
    kept.write(staged)
    assert [p.name for p in (folder / "run").iterdir()] == ["step-000002"], "nothing is left over"
    print(calls)


def removed(export: bool, stride: int, folder: Path) -> None:
    run = folder / "runs" / "run"
    kept = of(run / "checkpoints", Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1))
    staged = kept.stage(RolloutState())

    def write() -> None:
        try:
            kept.export(run) if export else kept.write(staged)
        except UserError as error:
            gone = f"{run} no longer exists: it was removed or moved while the run was writing to it"
            assert str(error) == gone  # noqa: PT017
        else:
            os._exit(UNSEEN)

    codes = []
    for calls in range(0, 10_000, stride):
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        codes.append(os.waitstatus_to_exitcode(in_a_fork(write, partial(removed_after, calls, run))))
        if run.exists():
            break
        assert list(run.parent.iterdir()) == [], calls
    late = len(codes) * 9 // 10  # about when all is in place
    assert set(codes[:late]) == {0}, codes
    assert set(codes[late:]) <= {0, UNSEEN}, codes
    print(calls)


def in_a_fork(work: Callable[[], object], hook: Callable[[], object]) -> int:
    """Do it in a fork, which the hook is set in; return how the fork ended, as ``os.waitpid`` has it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hook()
            work()
            code = 0
        finally:
            traceback.print_exc()
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed_after(calls: int) -> None:
    """Die before call number ``calls`` that changes the disk."""
    left = calls

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if written or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def removed_after(calls: int, folder: Path) -> None:
    """Remove a folder before call number ``calls`` of the system, also of one that only looks at the disk."""
    left = calls

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal left
        if event == "c_call" and getattr(function, "__module__", "") in ("posix", "_io"):
            left -= 1
            if left == -1:
                shutil.rmtree(folder)

    sys.setprofile(watch)


if __name__ == "__main__":
    ways = {
        "kill": partial(killed, False),
        "kill-again": partial(killed, True),
        "remove": partial(removed, False),
        "remove-export": partial(removed, True),
    }
    ways[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
