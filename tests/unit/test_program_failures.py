"""What becomes of an episode whose program fails: worth 0 for what the model said, else run again."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import pytest
import pytest_asyncio

from areal.agents.interface import ConversationTooLong, Env, Model, PolicyFailed
from areal.agents.program import Program, ProgramFailed
from areal.errors import AgentFailure, EngineLost, EnvironmentFailure, TransferFailed, UserError
from areal.evaluation.episodes import EpisodeOutcome, EvaluationFailure, sample_responses
from areal.evaluation.report import report
from areal.evaluation.responses import Response
from areal.host_limits import HostLimits
from areal.models import load_tokenizer, resolve_model
from areal.rollout.admission import Admission
from areal.rollout.controller import RolloutController, RolloutFailure
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.engines import Engines
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import NothingSampled
from areal.rollout.rendering import Renderer, eos_ids
from areal.rollout.worker import RolloutWorker
from areal.telemetry.progress import Progress
from areal.trajectory import Episode, Finish, Group

TOKENIZER = load_tokenizer(resolve_model("starter"))
RENDERER = Renderer(TOKENIZER, eos_ids(TOKENIZER))


class Engine:
    """One short response; ``finish`` says how it ends, ``error`` what is raised in its place."""

    version, busy_seconds = 0, 0.0

    def __init__(self) -> None:
        self.finish: Finish = "eos"
        self.error: Exception | None = None

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Completion([20, 21], [-1.0, -1.0], [0, 0], self.finish)

    async def close(self) -> None: ...


class OneWord(gymnasium.Env[str, str]):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        return (options or {}).get("task", "Say a word."), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", 1.0, True, False, {}


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[RolloutWorker]:
    engine: Any = Engine()
    server = EndpointServer(RENDERER.token_texts, 1.0)
    made = RolloutWorker(engine, RENDERER, Program(quiet), EnvironmentPool(OneWord, 2), 100, server)
    yield made
    await made.close()


async def quiet(task: str, **at: str) -> str:
    return ""


async def run_episode(worker: RolloutWorker, agent: Any, task: str = "Say a word.") -> Episode:
    own = RolloutWorker(worker.engine, RENDERER, agent, worker.pool, 100, worker.server)
    return await own.run_episode({"options": {"task": task}}, Sampling(8))


async def ask(at: dict[str, str], **body: Any) -> int:
    given = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}], **body}
    async with httpx.AsyncClient(base_url=at["base_url"], trust_env=False) as http:
        headers = {"x-api-key": at["api_key"]}
        return (await http.post("chat/completions", json=given, headers=headers)).status_code


async def crashes(task: str, **at: str) -> str:
    await ask(at)
    raise ValueError("unparseable")


async def hangs(task: str, **at: str) -> str:
    await ask(at)
    await asyncio.sleep(60)
    return ""


async def says_nothing(task: str, **at: str) -> Any:
    await ask(at)


async def outgrows(task: str, **at: str) -> str:
    await ask(at)
    if await ask(at, messages=[{"role": "user", "content": "long " * 100}]) == 400:
        raise ValueError("too long")
    return ""


async def loops(task: str, **at: str) -> str:
    while await ask(at) == 200:
        pass
    raise ValueError("no more answers")


async def crashes_first(task: str, **at: str) -> str:
    raise KeyError("no configuration")


async def asks_in_vain(task: str, **at: str) -> str:
    for _ in range(3):
        await ask(at, temperature=0.1)
    raise ValueError("no answer")


async def asks_half_in_vain(task: str, **at: str) -> str:
    await ask(at)
    if await ask(at, response_format={"type": "json_object"}) != 200:
        raise ValueError("no JSON")
    return ""


async def too_long_at_once(task: str, **at: str) -> str:
    await ask(at, messages=[{"role": "user", "content": "long " * 100}])
    raise ValueError("no answer")


async def gives_the_error_out(task: str, **at: str) -> str:
    return f"status {await ask(at, top_p=0.5)}"


@pytest.mark.parametrize("function", [crashes, hangs, says_nothing, outgrows, loops])
async def test_a_program_that_fails_of_a_response_is_worth_nothing_and_is_trained_on(
    worker: RolloutWorker, function: Any
):
    limits: Any = {"time_limit": 0.5 if function is hangs else 20, "max_completions": 3}
    episode = await run_episode(worker, Program(function, **limits))
    assert (episode.reward, episode.reward_parts) == (0.0, {}), "a failure is no part of the reward"
    assert episode.sampled > 0
    assert episode.failure.startswith("the program ")
    assert Episode.from_json(episode.to_json()).failure == episode.failure
    if function in (outgrows, loops):  # the model's doing, whatever is wished for
        again = await run_episode(worker, Program(function, on_failure="retry", **limits))
        assert (again.reward, again.failure) == (0.0, episode.failure)
    else:
        with pytest.raises(ProgramFailed):
            await run_episode(worker, Program(function, on_failure="retry", **limits))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (crashes_first, ProgramFailed, r"the program crashed: KeyError: 'no configuration' \(at .*\)$"),
        (
            asks_in_vain,
            ProgramFailed,
            "no answer.*; it sent 3 requests to the model, each refused: temperature=0.1",
        ),
        (asks_half_in_vain, ProgramFailed, "no JSON.*; a request was refused: response_format: forced JSON"),
        (too_long_at_once, ConversationTooLong, "maximum context length is 100"),
        (
            gives_the_error_out,
            NothingSampled,
            "Program sent 1 request to the model, refused: top_p=0.5 is not",
        ),
        (quiet, NothingSampled, "the agent Program ended the episode without a request to the model$"),
    ],
)
async def test_what_is_no_doing_of_the_model_is_not_punished(
    worker: RolloutWorker, function: Any, error: type[Exception], message: str
):
    for on_failure in ("punish", "retry"):
        program = Program(function, on_failure=on_failure, settings="refuse")  # type: ignore[arg-type]
        with pytest.raises(error, match=message):
            await run_episode(worker, program)


async def test_an_engine_or_an_environment_that_fails_is_never_the_model_s_doing(worker: RolloutWorker):
    async def goes_on(task: str, **at: str) -> str:
        assert await ask(at) == 200
        worker.engine.finish, worker.engine.error = finish, error  # type: ignore[attr-defined]
        raise ValueError(f"status {await ask(at)}")

    finish: Finish = "abort"
    error: Exception | None = None
    with pytest.raises(ProgramFailed, match="status 503"):
        await run_episode(worker, Program(goes_on))
    worker.engine.finish = "eos"  # type: ignore[attr-defined]
    finish, error = "eos", KeyError("a defect")
    with pytest.raises(KeyError, match="a defect"):
        await run_episode(worker, Program(goes_on))

    class Broken(OneWord):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
            raise OSError("no judge today")

    async def answers(task: str, **at: str) -> str:
        await ask(at)
        return "word"

    worker.engine.error = None  # type: ignore[attr-defined]
    broken = RolloutWorker(
        worker.engine, RENDERER, Program(answers), EnvironmentPool(Broken, 1), 100, worker.server
    )
    with pytest.raises(EnvironmentFailure, match="no judge today"):
        await broken.run_episode({}, Sampling(8))
    await broken.pool.close()


async def test_a_program_that_works_is_not_punished(worker: RolloutWorker):
    async def recovers(task: str, **at: str) -> str:
        assert await ask(at, documents=[{"text": "a"}]) == 400
        assert await ask(at, temperature=0.1, response_format={"type": "json_object"}) == 200
        return "word"

    async def rewards(task: str, **at: str) -> float:
        await ask(at)
        return 0.25

    assert [
        (e.reward, e.failure) for e in [await run_episode(worker, Program(f)) for f in (recovers, rewards)]
    ] == [
        (1.0, ""),
        (0.25, ""),
    ]
    counts = worker.counts()
    assert (counts["rollout/refused"], counts["rollout/ignored"]) == (1, 1)


async def test_an_agent_may_say_that_the_model_failed(worker: RolloutWorker):
    class Strict:
        def __init__(self, asks: bool, error: Exception) -> None:
            self.asks, self.error = asks, error

        async def run(self, env: Env, model: Model) -> None:
            task = await env.reset()
            if self.asks:
                await model.generate(task)
                await env.step("a word")
            raise self.error

    for error in (PolicyFailed("no number in it"), ConversationTooLong("900 tokens")):
        episode = await run_episode(worker, Strict(True, error))
        assert (episode.reward, episode.failure) == (0.0, str(error))
        with pytest.raises(type(error)):
            await run_episode(worker, Strict(False, error))
    with pytest.raises(KeyError):
        await run_episode(worker, Strict(True, KeyError("a defect")))


@pytest.mark.parametrize(("wrapped", "oom"), [(False, True), (True, True), (False, False)])
async def test_a_command_that_the_kernel_s_out_of_memory_killer_ends_is_no_reward(
    worker: RolloutWorker, tmp_path: Path, wrapped: bool, oom: bool
):
    """It asks the model, and is killed; the kernel's counter says why. Else it may have killed itself."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    kills = tmp_path / "memory.events"
    kills.write_text("oom_kill 0\n")
    code = (
        "import json, os, signal, sys, urllib.request as r\n"
        "body = json.dumps({'model': 'm', 'messages': [{'role': 'user', 'content': 'Hello?'}]}).encode()\n"
        "key = {'x-api-key': os.environ['OPENAI_API_KEY'], 'content-type': 'application/json'}\n"
        "r.urlopen(r.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, key)).read()\n"
        f"open({str(kills)!r}, 'w').write('oom_kill {int(oom)}\\n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    if wrapped:
        command = f"sh -c {shlex.quote(command + '; exit $?')}"
    program = Program(command=command, host=HostLimits(tmp_path, tmp_path))
    if oom:
        with pytest.raises(ProgramFailed, match="out-of-memory killer ended the program"):
            await run_episode(worker, program)
    else:
        assert (await run_episode(worker, program)).reward == 0


async def test_a_command_s_last_line_is_what_it_failed_of(worker: RolloutWorker):
    code = "import sys; print('one'); print('Traceback', file=sys.stderr); sys.exit('no key in KEY')"
    command = shlex.join([sys.executable, "-S", "-c", code])
    with pytest.raises(ProgramFailed, match=r"^the program exited with code 1: no key in KEY$"):
        await run_episode(worker, Program(command=command))


class OneOfSeveral(Engine):
    """It gets no more weights: the learner is gone."""

    frozen = False

    def watch(self, lost: Callable[[EngineLost], None]) -> None: ...

    async def lives(self) -> None:
        """Its processes are stopped, for so long that it is found and killed."""
        if self.frozen:
            await asyncio.sleep(0.1)
            raise EngineLost("no heartbeat for 30 s")

    async def generate(
        self, ids: list[int], sampling: Sampling, partial: Any = None, *, images: object = ()
    ) -> Completion:
        return await super().generate(ids, sampling)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None: ...

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        raise TransferFailed("the learner is gone")


@pytest.mark.parametrize("outage", ["none", "lost", "load", "frozen", "over"])
async def test_what_fails_while_an_engine_is_lost_is_no_reward(worker: RolloutWorker, outage: str):
    """A time limit of the program's own, for example, may be too short for a request that waits for long."""
    engine = OneOfSeveral()
    engines = Engines({"engine 0": engine})
    engines.on_lost = lambda name, engine, error: None

    async def late(task: str, **at: str) -> str:
        await ask(at)
        if outage == "lost":
            engines.lose("engine 0", EngineLost("vLLM has died"))
        elif outage == "load":
            with pytest.raises(TransferFailed):
                await engines.load(1)
        elif outage == "frozen":
            engine.frozen = True
        elif outage == "over":  # it began before the episode did
            engines.add("engine 1", OneOfSeveral())
        raise TimeoutError("no response within 30 s")

    episode = run_episode(replace(worker, engine=engines), Program(late))
    if outage == "none":
        assert (await episode).reward == 0
    else:
        with pytest.raises(AgentFailure, match=r"no response within 30 s.*; an engine was lost or frozen"):
            await episode


def test_what_on_failure_may_be():
    with pytest.raises(UserError, match="on_failure='reward:0' must be punish or retry"):
        Program(quiet, on_failure="reward:0")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="settings='drop' must be ignore or refuse"):
        Program(crashes, settings="drop")  # type: ignore[arg-type]


def control(run_episode: Callable[..., Any], retries: int = 1, failures: int = 2) -> RolloutController:
    admission: Admission[Group] = Admission(2, 1)
    return RolloutController(admission, run_episode, lambda number: {"seed": number}, 4, 8, retries, failures)


async def test_punished_episodes_are_part_of_the_batch_and_counted(
    worker: RolloutWorker, caplog: pytest.LogCaptureFixture
):
    async def half(task: str, **at: str) -> str:
        nonlocal attempts
        attempts += 1
        number = attempts
        await ask(at)
        if number % 2:
            raise ValueError("unparseable")
        return "word"

    attempts = 0
    agent = Program(half)
    running = asyncio.create_task(
        (control_ := control(lambda task, episode_id: run_episode(worker, agent))).run()
    )
    with caplog.at_level(logging.WARNING, "areal"):
        groups = await asyncio.wait_for(control_.next_batch(0), 60)
    running.cancel()
    await asyncio.wait({running})
    rewards = [e.reward for group in groups for e in group.episodes]
    assert len(rewards) == 8
    assert set(rewards) == {0.0, 1.0}
    assert (control_.retries, control_.failures) == (0, 0)
    assert control_.punished >= rewards.count(0.0) >= 3
    logged = [r.getMessage() for r in caplog.records if "gets the reward 0" in r.getMessage()]
    assert len(logged) == 1
    assert "unparseable" in logged[0]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ProgramFailed("the program exited with code 1: no key"),
            ProgramFailed,
            "^the program .*: no key; [34] gro",
        ),
        (
            NothingSampled("the agent asked in vain"),
            NothingSampled,
            "^the agent asked in vain; [34] groups in a row",
        ),
        (
            ConversationTooLong("900 tokens: raise it"),
            UserError,
            "^900 tokens: raise it; [34] groups in a row",
        ),
        (
            KeyError("x"),
            RolloutFailure,
            r"^[34] groups in a row failed .*; the last one with KeyError: 'x' \(at .*:\d+\)$",
        ),
    ],
)
async def test_a_run_in_which_all_fails_ends_with_the_reason_in_front(
    error: Exception, kind: type[Exception], message: str
):
    async def fails(task: dict[str, Any], place: Any) -> Episode:
        raise error

    with pytest.raises(kind, match=message) as caught:
        await asyncio.wait_for(control(fails, retries=0).run(), 30)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError | AgentFailure), "one line on the screen, no traceback"


TASKS: list[dict[str, Any]] = [{"index": index} for index in range(12)]


def outcome(failure: str = "") -> EpisodeOutcome:
    finish = "failed" if failure else "eos"
    return EpisodeOutcome(finish, ["word"], reward=0.0 if failure else 1.0, failure=failure)


async def test_in_an_evaluation_an_episode_that_fails_is_wrong_and_counted():
    async def some(task: dict[str, Any], seed: int) -> EpisodeOutcome:
        await asyncio.sleep(0)
        if task["index"] % 3 == 0:
            raise ProgramFailed("the program crashed")
        return outcome("unparseable" if task["index"] == 1 else "")

    kept: list[Response] = []
    responses = await sample_responses(
        some, TASKS, 1, 4, 0, retries=1, keep=lambda response, said: kept.append(response), max_failures=2
    )
    assert [a.finish for a in responses] == ["failed", "failed", "eos", *["failed", "eos", "eos"] * 3]
    assert [a.failure for a in responses[:3]] == ["the program crashed", "unparseable", ""]
    summary = report(responses, 1, env="e", model="m", seconds=0.0).failure_summary()
    assert summary == "5 episodes failed, and count as wrong; the first: the program crashed"
    assert sorted(kept, key=lambda a: a.problem) == responses
    found = report(responses, 1, env="e", model="m", seconds=1.0)
    assert found.failed == 5
    assert found.accuracy == pytest.approx(7 / 12)


@pytest.mark.parametrize("count", [1, 12])
async def test_an_evaluation_whose_program_fails_at_once_ends_with_the_reason(count: int):
    async def fails(task: dict[str, Any], seed: int) -> EpisodeOutcome:
        calls.append(task)
        await asyncio.sleep(0)
        raise ProgramFailed("the program exited with code 1: no key")

    calls: list[Any] = []
    kept: list[Response] = []
    with pytest.raises(
        ProgramFailed, match=r"^the program exited with code 1: no key; none of the [1-4] episodes finished"
    ):
        await sample_responses(
            fails, TASKS[:count], 1, 2, 0, keep=lambda response, said: kept.append(response), max_failures=2
        )
    assert kept == [], "nothing to go on from that would count as wrong"
    assert len(calls) <= 6


async def test_infrastructure_that_fails_ends_an_evaluation_and_is_no_wrong_answer():
    async def some(task: dict[str, Any], seed: int) -> EpisodeOutcome:
        if task["index"] == 5:
            raise error
        return outcome()

    message = r"^an episode of {'index': 5} failed: \w+: '?gone'? \(at .*test_program_failures.py:\d+\)$"
    for error in (OSError("gone"), RuntimeError("gone"), KeyError("gone")):
        with pytest.raises(EvaluationFailure, match=message) as caught:
            await sample_responses(some, TASKS, 1, 1, 0, retries=1)
        assert caught.value.__cause__ is error
    error = EnvironmentFailure("the environment is gone")
    with pytest.raises(EnvironmentFailure, match="the environment is gone"):
        await sample_responses(some, TASKS, 1, 1, 0)


def test_what_failed_is_on_the_screen_once_there_is_any(capsys: pytest.CaptureFixture[str]):
    quiet_metrics = {"step": 1, "reward/mean": 0.5, "rollout/retries": 0.0, "rollout/punished": 0.0}
    with Progress(4, "title", True, sys.stdout) as progress:
        progress.update(quiet_metrics)
        progress.update({**quiet_metrics, "step": 2, "rollout/retries": 1163.0, "rollout/failures": 18.0})
        progress.update({**quiet_metrics, "step": 3, "rollout/punished": 5.0, "rollout/refused": 40.0})
    first, second, third = capsys.readouterr().out.splitlines()[1:]
    assert "retries" not in first
    assert "punished" not in first
    assert "1,163 retries  18 groups discarded" in second
    assert "5 with reward 0  40 requests refused" in third
