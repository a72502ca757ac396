"""The endpoint outside of training: what calls may ask for, keys, and sessions that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from until import HANG, until

from areal.cli import main
from areal.config import parse_config
from areal.errors import UserError
from areal.listening import listen
from areal.models import load_tokenizer, resolve_model
from areal.rollout.endpoint.app import make_app
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.server import make_uvicorn
from areal.rollout.endpoint.serving import ServedKey, ServedRecorder, ServedSession, Sessions
from areal.rollout.engine import Completion, Sampling
from areal.rollout.rendering import Renderer, eos_ids
from areal.runtime.serving import Record
from areal.viewer.rollouts import read_sessions

TOKENIZER = load_tokenizer(resolve_model("starter"))
RENDERER = Renderer(TOKENIZER, eos_ids(TOKENIZER))
USER: Any = [{"role": "user", "content": "Hello?"}]
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


class Noting:
    """An engine that notes how it is to sample."""

    def __init__(self) -> None:
        self.asked: list[Sampling] = []
        self.waits: asyncio.Event | None = None

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        self.asked.append(sampling)
        if self.waits is not None:
            await self.waits.wait()
        return Completion([20, 21], [-1.0, -0.5], [0, 0], "eos")


@asynccontextmanager
async def serving(
    renderer: Renderer = RENDERER, budget: int | None = None, **limits: Any
) -> AsyncIterator[tuple[Noting, str, list[ServedKey], Sessions]]:
    """An engine, the address of a server on it, the sessions that have ended, and all; the key is k."""
    engine, ended = Noting(), list[ServedKey]()

    def start() -> tuple[ServedRecorder, ServedSession]:
        model = ServedRecorder(engine, renderer, Sampling(100, thinking_budget=budget), 100)
        return model, ServedSession(model, RENDERER.token_texts, 1.0, 10**6)

    sessions = Sessions("k", start, ended.append, **limits)
    listening = listen("127.0.0.1", 0)
    server = make_uvicorn(make_app(sessions.of_key, Refusals(), 2**20, 15.0))
    tasks = [asyncio.ensure_future(server.serve([listening])), asyncio.ensure_future(sessions.run())]
    try:
        yield engine, f"http://127.0.0.1:{listening.getsockname()[1]}/v1", ended, sessions
    finally:
        tasks[1].cancel()
        await sessions.close()
        server.should_exit = True
        await asyncio.wait(tasks)


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=HANG)


def without(sampling: Sampling) -> dict[str, Any]:
    """What is not as it is by default."""
    plain = Sampling(1)
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
    names += ("repetition_penalty", "schema")
    return {n: v for n in names if (v := getattr(sampling, n)) != getattr(plain, n)}


async def test_each_call_is_sampled_as_it_asks():
    chat: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1}, {}),
        ({"temperature": 1.7, "top_p": 0.5}, {"temperature": 1.7, "top_p": 0.5}),
        ({"top_p": 1, "presence_penalty": 0}, {}),
        (
            {"presence_penalty": -2, "frequency_penalty": 0.5},
            {"presence_penalty": -2, "frequency_penalty": 0.5},
        ),
        ({"extra_body": {"top_k": 3, "min_p": 0.1}}, {"top_k": 3, "min_p": 0.1}),
        ({"extra_body": {"top_k": -1, "repetition_penalty": 1.5}}, {"repetition_penalty": 1.5}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"schema": '{"type": "object"}'}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            {"schema": json.dumps(SCHEMA)},
        ),
    ]
    async with serving() as (engine, url, _, _):
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            for given, found in chat:
                await client.chat.completions.create(model="m", messages=USER, **given)
                assert without(engine.asked[-1]) == found, given
            form: Any = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
            await client.responses.create(model="m", input="Hello?", temperature=0.5, text=form)
            assert without(engine.asked[-1]) == {"temperature": 0.5, "schema": json.dumps(SCHEMA)}
        body = {"temperature": 0.25, "top_k": 7}
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}  # type: ignore[assignment]
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            await client.messages.create(model="m", max_tokens=9, messages=USER, extra_body=body)
        found = {"temperature": 0.25, "top_k": 7, "schema": json.dumps(SCHEMA)}
        assert without(engine.asked[-1]) == found
        assert engine.asked[-1].max_tokens == 9


async def test_a_call_may_bound_its_thought():
    made = load_tokenizer(resolve_model("starter"))
    made.chat_template += "{#- it has <think> and </think> -#}"
    async with (
        serving(Renderer(made, eos_ids(made)), budget=40) as (engine, url, _, _),
        client_of(url) as http,
    ):
        unbounded = {"thinking_token_budget": -1, "presence_penalty": 1}
        for given, lengths in (
            ({}, [40]),
            ({"thinking_token_budget": 30}, [30]),
            (unbounded, [90]),
            ({}, [40]),
        ):
            body = {"model": "m", "messages": USER, "max_tokens": 90, **given}
            answer = await http.post("/chat/completions", json=body, headers={"x-api-key": "k"})
            assert answer.status_code == 200, answer.text
            assert [sampling.max_tokens for sampling in engine.asked] == lengths, "it ends within its budget"
            engine.asked.clear()
        body = {"model": "m", "messages": USER, "max_tokens": 90, "presence_penalty": 1}
        refused = await http.post("/chat/completions", json=body, headers={"x-api-key": "k"})
        assert refused.status_code == 400
        assert "thinking_token_budget=-1" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: Input should be greater than or equal to 0"),
        ({"temperature": 0.005}, "temperature=0.005: give 0, or a value of at least 0.01"),
        ({"temperature": 2.1}, "temperature=2.1: Input should be less than or equal to 2"),
        ({"temperature": True}, "temperature=True differs"),
        ({"temperature": "hot"}, "temperature='hot' differs"),
        ({"top_p": 0}, "top_p=0: Input should be greater than 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_k": -2}, "top_k=-2"),
        ({"presence_penalty": 3}, "presence_penalty=3"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"thinking_token_budget": 7}, "thinking_token_budget=7: Input should be greater than or equal to 8"),
        ({"thinking_token_budget": 9}, "the model's chat template does not mark thoughts"),
        ({"logit_bias": {"5": 1}}, "logit_bias={'5': 1} is not available"),
        ({"guided_json": SCHEMA}, "guided_json="),
        ({"response_format": {"type": "json_schema"}}, "json_schema with a schema"),
        ({"response_format": {"type": "json_schema", "json_schema": "x"}}, "json_schema with a schema"),
        ({"response_format": {"type": "grammar"}}, "give text, json_object, or json_schema"),
        ({"tool_choice": "required", "tools": []}, "a forced call is not sampled"),
        ({"no_such_field": 1}, "no_such_field=1"),
    ],
)
async def test_what_cannot_be_granted_is_refused(given: dict[str, Any], found: str):
    async with serving() as (engine, url, _, _), client_of(url) as http:
        body = {"model": "m", "messages": USER, **given}
        answer = await http.post("/chat/completions", json=body, headers={"x-api-key": "k"})
        assert answer.status_code == 400
        assert found in answer.json()["error"]["message"]
        assert engine.asked == []


async def ask(http: httpx.AsyncClient, key: str, path: str = "chat/completions", **body: Any) -> int:
    given = body or {"model": "m", "messages": USER}
    return (await http.post(path, json=given, headers={"authorization": f"Bearer {key}"})).status_code


async def test_a_key_with_a_name_behind_it_is_a_session_of_its_own(tmp_path: Path):
    async with (
        serving() as (_, url, ended, sessions),
        client_of(url) as http,
    ):
        for key in ("l", "K", "k2", "kk", "k.a", "/k"):
            assert await ask(http, key) == 401, key
        for key in ("k", "k/", "k/a", "k/b", "k/a"):
            assert await ask(http, key) == 200, key
        assert await ask(http, "k/a", "reward", reward=0.5) == 200
        assert ended == []
        await sessions.close()
        found = sorted(
            (len(e.model.trajectories()), e.session.reward) for e in ended if e.session.reward is None
        )
        assert found == [(1, None), (2, None)]
        [rewarded] = [e for e in ended if e.session.reward is not None]
        assert (len(rewarded.model.trajectories()), rewarded.session.reward) == (2, 0.5)
    file = tmp_path / "sessions.jsonl"
    ended[0].used -= 600  # it was idle for ten minutes, and then ended
    with Record(file, resolve_model("starter")) as written:
        for each in ended:
            written.add(each)
    rollouts, decode = read_sessions(file)
    assert [(r.group, r.episode.reward, len(r.episode.trajectories)) for r in rollouts] == [
        (0, 0.0, 2), (1, 0.5, 2), (2, 0.0, 1),
    ]  # fmt: skip
    assert [r.episode.task for r in rollouts] == [
        {"session": each.name} if each.name else {} for each in ended
    ]
    assert rollouts[0].episode.ended < rollouts[1].episode.ended - 500
    assert "Hello?" in decode(rollouts[0].episode.trajectories[0].tokens.tolist())
    with pytest.raises(SystemExit) as shown:
        main(["show", str(file), "--best", "-n", "1", "--json"])
    assert shown.value.code == 0


async def test_a_session_ends_when_it_is_idle_and_no_call_is_in_flight():
    async with serving(patience=0.0) as (engine, url, ended, _), client_of(url) as http:
        engine.waits = asyncio.Event()
        waiting = asyncio.create_task(ask(http, "k"))
        await until(lambda: engine.asked)
        await asyncio.sleep(1.5)  # longer than from one look to the next
        assert ended == []
        engine.waits.set()
        assert await waiting == 200
        await until(lambda: ended)
        assert len(ended[0].model.trajectories()) == 1
        assert await ask(http, "k") == 200, "another session begins"


async def test_a_session_that_has_sampled_much_gives_way_to_another():
    async with serving(max_completions=2) as (_, url, ended, _), client_of(url) as http:
        for _ in range(5):
            assert await ask(http, "k") == 200
        assert [len(e.model.trajectories()) for e in ended] == [2, 2]


def test_a_file_that_is_there_already_is_not_written(tmp_path: Path):
    (tmp_path / "kept.jsonl").write_text("kept\n")
    for path, found in ((tmp_path / "kept.jsonl", "exists"), (tmp_path / "no/x", "No such file")):
        with pytest.raises(UserError, match=found), Record(path, "m"):
            pass
    assert (tmp_path / "kept.jsonl").read_text() == "kept\n"
    with pytest.raises(UserError, match="not a file of sessions"):
        read_sessions(tmp_path / "kept.jsonl")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--model", "http://127.0.0.1:1/v1"], "runs a model on this machine"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "192.0.2.1"], "cannot serve on 192.0.2.1"),
        (["rollout.max_model_len=1000000"], "exceeds the model's limit"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], found: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert found in error
    assert error.count("\n") == 1


def test_what_is_sampled_in_two_parts_is_the_same():
    plain = {"temperature": 0.5, "top_p": 0.5, "top_k": 4, "min_p": 0.1}
    assert Sampling(9, **plain).is_divisible  # type: ignore[arg-type]
    for given in ({"stop": ("a",)}, {"seed": 0}, {"schema": "{}"}, {"presence_penalty": 1.0}):
        assert not Sampling(9, **given).is_divisible  # type: ignore[arg-type]
    assert parse_config({}).rollout.temperature == 1
