"""Programs as agents: their answers and rewards; killed, hung and flooding ones; nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import pytest
from program_runs import CHILD, left, python, resources, run_episode

from areal.agents.program import Program, ProgramFailed
from areal.config import parse_config
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.rollout.admission import Admission
from areal.rollout.controller import RolloutController
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.rendering import Renderer, eos_ids
from areal.rollout.worker import RolloutWorker
from areal.runtime.plan import plan
from areal.trajectory import Group


async def ask(at: dict[str, str], path: str, body: dict[str, Any]) -> Any:
    async with httpx.AsyncClient(base_url=at["base_url"], trust_env=False) as http:
        response = await http.post(path, json=body, headers={"authorization": f"Bearer {at['api_key']}"})
        return response.raise_for_status().json()


async def test_an_answer_goes_to_the_environment_and_a_number_is_the_reward():
    async def answers(task: str, **at: str) -> str:
        said = await ask(
            at, "chat/completions", {"model": "m", "messages": [{"role": "user", "content": task}]}
        )
        return f"{task} {said['choices'][0]['message']['content']}"

    async def knows(task: str, **at: str) -> bool:
        return True

    async def says(task: str, **at: str) -> str:
        await ask(at, "reward", {"reward": 0.5})
        return "4"

    assert await run_episode(Program(answers)) == (["What is 2 + 2? 1 messages"], [])
    assert await run_episode(Program(knows)) == ([], [1.0])
    assert await run_episode(Program(says)) == ([], [0.5])


async def test_functions_that_fail_and_functions_that_hang():
    async def crashes(task: str, **at: str) -> str:
        raise KeyError("no such thing")

    async def hangs(task: str, **at: str) -> str:
        await asyncio.sleep(60)
        return ""

    async def clings(task: str, **at: str) -> str:
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                caught.append(1)
        return "late"

    async def nothing(task: str, **at: str) -> Any:
        return outcome

    caught: list[int] = []
    outcome: Any = None
    with pytest.raises(ProgramFailed, match=r"crashed: KeyError.*no such thing") as failed:
        await run_episode(Program(crashes))
    assert isinstance(failed.value.__cause__, KeyError)
    for function in (hangs, clings):
        with pytest.raises(ProgramFailed, match=r"did not answer within 0\.05 s"):
            await run_episode(Program(function, time_limit=0.05))
    assert len(caught) == 3, "cancelled until it gave in"
    for returned in (None, float("nan"), [4]):
        outcome = returned
        with pytest.raises(ProgramFailed, match=r"returned .*; return its answer"):
            await run_episode(Program(nothing))


async def test_a_function_that_fails_as_its_episode_is_cancelled_is_no_report_of_asyncios():
    async def cleans_up(task: str, **at: str) -> str:
        try:
            await asyncio.sleep(99)
        finally:
            raise KeyError("nothing to clean up")
        return ""

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    running = asyncio.create_task(run_episode(Program(cleans_up)))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    del running  # it holds what it failed of
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert reported == []


async def test_a_command_finds_task_address_and_key():
    code = """
import json, os, sys, urllib.request
assert os.environ["ANTHROPIC_BASE_URL"] + "/v1" == os.environ["OPENAI_BASE_URL"]
assert os.environ["ANTHROPIC_API_KEY"] == os.environ["OPENAI_API_KEY"]
assert "ANTHROPIC_AUTH_TOKEN" not in os.environ
body = {"model": "m", "messages": [{"role": "user", "content": sys.stdin.read()}]}
key = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
call = urllib.request.Request(url, json.dumps(body).encode(), key)
said = json.load(urllib.request.urlopen(call))["choices"][0]["message"]["content"]
print(" ", body["messages"][0]["content"], said, "ü")
"""
    os.environ["ANTHROPIC_AUTH_TOKEN"] = "a real one"
    os.environ["http_proxy"] = "http://127.0.0.1:9"
    try:
        assert await run_episode(Program(command=python(code))) == (["What is 2 + 2? 1 messages ü"], [])
    finally:
        del os.environ["ANTHROPIC_AUTH_TOKEN"], os.environ["http_proxy"]


@pytest.mark.parametrize(
    ("code", "time_limit", "found"),
    [
        ("import sys; sys.exit('bad luck')", 99, "exited with code 1: bad luck"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 99, "was killed by SIGKILL"),
        (
            CHILD + "import time; print('x', file=sys.stderr, flush=True); time.sleep(99)",
            8,
            "did not answer within 8 s: x",
        ),
        ("while True: print('x' * 9999)", 99, "wrote more than 1048576 bytes"),
    ],
)
async def test_commands_that_fail(code: str, time_limit: float, found: str):
    before = resources()
    with pytest.raises(ProgramFailed, match=found):
        await run_episode(Program(command=python(code), time_limit=time_limit))
    assert not await left(before)


async def test_what_a_command_leaves_running_is_killed_and_keeps_nobody_waiting():
    before, began = resources(), time.monotonic()
    assert (await run_episode(Program(command=python(CHILD + "print(4)"))))[0] == ["4"]
    assert time.monotonic() - began < 60
    assert not await left(before)
    hanging = asyncio.create_task(run_episode(Program(command=python(CHILD + "import time; time.sleep(99)"))))
    await asyncio.sleep(0.3)
    hanging.cancel()  # as a run that is stopped does
    assert (await asyncio.wait({hanging}, timeout=60))[0], "it is killed, not waited for"
    assert not await left(before)


class OneResponse:
    """An engine with one short response."""

    version, busy_seconds = 0, 0.0

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        await asyncio.sleep(0.001)
        return Completion([20, 21], [-1.0, -1.0], [0, 0], "eos")

    async def close(self) -> None: ...


class OneWord(gymnasium.Env[str, str]):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        return "Say a word.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", 1.0, True, False, {}


async def test_a_run_goes_on_whatever_its_programs_do_and_the_budget_counts_it():
    async def program(task: str, base_url: str, api_key: str) -> str:
        attempt = next(attempts)
        call = {
            "url": f"{base_url}/chat/completions",
            "json": {"model": "m", "messages": [{"role": "user", "content": task}]},
            "headers": {"x-api-key": api_key},
        }
        calls = 40 if attempt % 7 == 3 and not always else 1
        responses = await asyncio.gather(*(http.post(**call) for _ in range(calls)))
        assert {response.status_code for response in responses} == {200}
        if attempt % 3 == 1 or always:
            raise KeyError("a bug of the program")
        if attempt % 5 == 2:
            await asyncio.sleep(60)
        return "word"

    def control() -> RolloutController:
        admission: Admission[Group] = Admission(2, 1)
        run_episode = lambda task, episode_id: worker.run_episode(task, Sampling(8))  # noqa: E731
        # Half of the attempts fail, in an order that depends on the machine: of so many retries one does not.
        return RolloutController(admission, run_episode, lambda number: {"seed": number}, 4, 8, 20, 1)

    attempts, always = itertools.count(), False
    engine: Any = OneResponse()
    tokenizer = load_tokenizer(resolve_model("starter"))
    agent = Program(program, time_limit=5, max_completions=30, on_failure="retry")
    renderer, pool = Renderer(tokenizer, eos_ids(tokenizer)), EnvironmentPool(OneWord, 2)
    server = EndpointServer(renderer.token_texts, 1.0)
    worker = RolloutWorker(engine, renderer, agent, pool, 100, server)
    running_before, http = asyncio.all_tasks(), httpx.AsyncClient(trust_env=False)
    good = control()
    running = asyncio.create_task(good.run())
    for version in range(2):
        groups = await asyncio.wait_for(good.next_batch(version), 300)
        episodes = [episode for group in groups for episode in group.episodes]
        whole = [e for e in episodes if not e.failure]
        assert {(e.reward, len(e.trajectories)) for e in whole} == {(1.0, 1)}
        # One that had all its completions is worth nothing, whatever becomes of other failures.
        assert all((e.reward, len(e.trajectories)) == (0.0, 30) for e in episodes if e.failure)
        good.advance(version + 1)
    assert good.retries >= 2
    assert good.failures == 0
    running.cancel()
    await asyncio.wait({running})
    always = True
    with pytest.raises(ProgramFailed, match=r"a bug of the program.* \(at .*; 2 groups in a row failed"):
        await asyncio.wait_for(control().run(), 300)
    assert worker.server is not None
    assert worker.server._sessions == {}
    await http.aclose()
    await worker.close()
    assert asyncio.all_tasks() <= running_before


def program_file(folder: Path, text: str) -> str:
    (folder / "helper_of_mine.py").write_text("WORD = 'word'\n")
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def test_a_function_in_a_file_is_an_agent_by_its_place(tmp_path: Path):
    path = program_file(
        tmp_path,
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport helper_of_mine\n"
        "@dataclass\nclass Own:\n    word: str\n"
        "async def solve(task, base_url, api_key):\n    return Own(helper_of_mine.WORD).word\n"
        "async def bare():\n    ...\n",
    )
    options = {"time_limit": 5}
    agent = plan(parse_config({"agent": f"{path}:solve", "agent_options": options})).agent
    assert isinstance(agent, Program)
    for reference, found in [
        (f"{path}:sove", "has no 'sove'; did you mean 'solve'"),
        (f"{path}:bare", r"called as bare\(task"),
        ("programm", "did you mean 'program'"),
    ]:
        with pytest.raises(UserError, match=found):
            plan(parse_config({"agent": reference}))
    with pytest.raises(UserError, match="time_limits"):
        plan(parse_config({"agent": f"{path}:solve", "agent_options": {"time_limits": 5}}))


def blocks(task: str, **at: str) -> str:
    return ""


async def takes_nothing() -> str:
    return ""


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: Program(), "a function .* or a command"),
        (lambda: Program(takes_nothing, command="true"), "a function .* or a command"),
        (lambda: Program(blocks), "must be an async function"),
        (lambda: Program(takes_nothing), r"called as takes_nothing\(task, base_url"),
        (lambda: Program(command="no-such-program --fast"), "the program does not exist"),
        (lambda: Program(command="'"), "No closing quotation"),
        (lambda: Program(command=""), "the program does not exist"),
        (lambda: Program(command="true", time_limit=0), "above 0"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(make: Callable[[], Program], found: str):
    with pytest.raises(UserError, match=found):
        make()
