"""Kills the process that writes a checkpoint, at each moment, and looks at what is left.

Run by test_checkpoint.py: ``python kills.py AGAIN STRIDE FOLDER``; prints how many calls a checkpoint takes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dummy_batches import batch, group

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints

STARTER = resolve_model("starter")
NOTHING: dict[str, Any] = {"next_group": 0, "in_flight": []}


def of(folder: Path, learner: Learner) -> Checkpoints:
    return Checkpoints(folder, learner, load_tokenizer(STARTER), 1, torch.float32)


def main(again: bool, stride: int, folder: Path) -> None:
    learner, resumed = (Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1) for _ in range(2))
    learner.update(batch(0))
    kept = of(folder / "original", learner)
    kept.write(kept.stage(NOTHING, []))
    learner.update(batch(1))
    kept = of(folder / "run", learner)
    staged = kept.stage(NOTHING, [group(np.random.default_rng(0), 3)])
    if again:
        kept.write(kept.stage(NOTHING, []))
        shutil.copytree(folder / "run", folder / "original", dirs_exist_ok=True)
        shutil.rmtree(folder / "original" / "step-000001")
    for calls in range(0, 1000, stride):
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / "original", folder / "run", copy_function=os.link)
        ended = in_a_fork(lambda calls=calls: kept.write(staged), calls)
        found = checkpoint.latest(folder / "run")
        assert found is not None, calls
        checkpoint.load_learner(found, resumed)
        assert resumed.version == checkpoint.version_of(found)
        assert {p.name for p in found.iterdir()} == {"learner", "model", "state.json", "groups.jsonl"}
        if ended == 0:
            break
        assert os.WIFSIGNALED(ended), calls
    assert checkpoint.load_rollouts(found)[1][0].id == 3
    kept.write(staged)
    assert [p.name for p in (folder / "run").iterdir()] == ["step-000002"], "nothing is left over"
    print(calls)


def in_a_fork(work: Callable[[], object], calls: int) -> int:
    """Do it in a fork that dies after so many calls that change the disk; return how it ended.

    As ``os.waitpid`` has it.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.addaudithook(dying_after(calls))
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def dying_after(calls: int) -> Callable[[str, tuple[Any, ...]], None]:
    left = calls

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if written or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return watch


if __name__ == "__main__":
    main(bool(int(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3]))
