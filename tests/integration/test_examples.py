"""Each file of examples/ that trains is run by the command in its head, two updates long, on one engine.

So is the notebook that trains, without a kernel: that would have an engine of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from notebooks import code
from sdk import agents_sdk
from synchronous import Shared

from areal import cli
from areal.config import parse_config
from areal.learner.model import load_model
from areal.models import resolve_model
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engines import Engines
from areal.rollout.worker import RolloutWorker
from areal.runtime import build
from areal.runtime.plan import Plan, plan
from areal.runtime.rollouts import environments
from areal.weights.sender import open_sender

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
ELSEWHERE = {"browser_task", "count_shapes"}
"""Those that need another model: tests/unit/test_browsergym.py, tests/integration/test_sight.py."""
EXAMPLES = [
    path for path in FILES if re.search(r"areal[. ]train\b", path.read_text()) and path.stem not in ELSEWHERE
]
COMMAND = re.compile(r"^ *((?:areal train|python examples/).*?)(?: \[.*)?$", re.MULTILINE)
SMALL = [
    "steps=2", "rollout.batch_size=16", "rollout.max_new_tokens=40", "rollout.max_staleness=0",
    "learner.threads=1", "evaluation.problems=0",
]  # fmt: skip
TWICE = {"anthropic_client", "my_agent"}
"""Those that ask the model twice in an episode. The model that ships has never called a tool."""
JUDGED = {"anthropic_client", "multi_turn", "openai_agents", "openai_client", "staying"}
"""Those in which it is right at times: it reads no other words than those of its training."""
GAMES = {"nim"}
"""Those with several players, each with a conversation of its own."""
Loop = asyncio.AbstractEventLoop


@pytest_asyncio.fixture(loop_scope="session")
async def engine(worker: RolloutWorker) -> AsyncIterator[Any]:
    """The shared engine; nobody closes it."""
    yield Shared(worker.engine)
    # Other tests expect the engine as it was: version 0, with the starter's own weights.
    starter = load_model(resolve_model("starter"))
    sender = open_sender(["shared memory"], starter.named_parameters(), torch.float32, "cpu")
    await worker.engine.connect(sender.init_infos())
    sender.write(starter.named_parameters())
    await worker.engine.load(0)
    sender.close()


@pytest_asyncio.fixture(loop_scope="session")
async def running(worker: RolloutWorker, engine: Any, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """The loop of the shared engine, which runs started by a command take in place of one of their own."""

    async def start_rollout_worker(checked: Plan, backend: str | None, guard: Any = None) -> RolloutWorker:
        envs = environments(checked.config)
        server = EndpointServer(worker.renderer.token_texts, 1.0)
        engines = Engines({name: Shared(each) for name, each in engine.engines.items()})
        return RolloutWorker(engines, worker.renderer, checked.agent, envs, checked.max_model_len, server)

    monkeypatch.setattr(build, "start_rollout_worker", start_rollout_worker)
    session = asyncio.get_running_loop()
    monkeypatch.setattr(asyncio, "run", session.run_until_complete)
    return session


async def test_the_algorithm_in_one_file_trains(
    worker: RolloutWorker, engine: Any, capsys: pytest.CaptureFixture[str]
):
    example = runpy.run_path(str(FOLDER / "rl_loop.py"))
    checked = plan(parse_config(example["SETTINGS"]))
    rewards = await example["train"](replace(worker, engine=engine), checked, updates=3)
    assert engine.version == 3
    assert len(rewards) == 3
    assert all(0 < reward < 1 for reward in rewards), "some are right, and some wrong"
    assert capsys.readouterr().out.count("reward") == 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains_as_its_head_says(
    path: Path, running: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(path.parents[1])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    agents_sdk()
    head = path.read_text().split('"""')[1].replace("\\\n", " ")
    command, *words = shlex.split(COMMAND.findall(head)[0])
    settings = [*SMALL, f"output={tmp_path}", "name=r"]
    if command == "areal":
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *settings])
        assert ended.value.code == 0
    else:
        monkeypatch.setattr(sys, "argv", [words[0], "starter", *settings])
        runpy.run_path(words[0], run_name="__main__")
    metrics = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").open()]
    assert [row["step"] for row in metrics] == [1, 2]
    groups = [
        json.loads(line) for n in (1, 2) for line in (tmp_path / f"r/rollouts/step-00000{n}.jsonl").open()
    ]
    episodes = [episode for group in groups for episode in group["episodes"]]
    assert len(episodes) == 32
    trajectories = [trajectory for episode in episodes for trajectory in episode["trajectories"]]
    turns = {len(trajectory["turns"]) for trajectory in trajectories}
    if path.stem in GAMES:
        assert {trajectory["player"] for trajectory in trajectories} == {"first", "second"}
    else:
        assert len(trajectories) == 32, "one conversation each"
        assert turns <= {1, 2} if path.stem == "multi_turn" else turns == {2 if path.stem in TWICE else 1}
    learnt = [trajectory for episode in episodes[16:] for trajectory in episode["trajectories"]]
    assert {v for t in learnt for v in t["versions"]} == {-1, 1}, "with the weights just learnt"
    if path.stem in JUDGED:
        assert 0 < sum(episode["reward"] for episode in episodes) < 32
        assert any(row["loss"] != 0 for row in metrics)


def test_the_notebook_of_the_first_run(running: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "svg")
    names: dict[str, Any] = {}
    for source, sets_parameters in code("first_run.ipynb"):
        exec(source, names)
        if sets_parameters:
            small = [setting for setting in SMALL if not setting.startswith(("steps", "evaluation"))]
            names["settings"] |= {"steps": 2, "evaluation": {"problems": 16}, "overrides": small}
    run = names["run"]
    assert [row["step"] for row in names["updates"]] == [1, 2]
    assert 0 < run.accuracy_before < 1
    assert names["reward"] in (0, 1)
    assert (tmp_path / run.model / "model.safetensors").is_file()
