"""`areal serve`, as a user runs it: the real engine, the vendors' clients, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import anthropic
import httpx
import openai
import psutil
import pytest

from areal.models import resolve_model
from areal.viewer.rollouts import read_sessions

PROBLEM: Any = [{"role": "user", "content": "Compute 12 + 30.\nPut the final answer in \\boxed{}."}]
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["x"],
    "additionalProperties": False,
}


@dataclass
class Served:
    process: subprocess.Popen[str]
    record: Path
    url: str
    key: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    record = folder / "sessions.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "areal", "serve", "--record", str(record), "engine.dtype=float32"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url, key = address(process.stdout)
        yield Served(process, record, url, key)
    finally:
        process.kill()
        process.wait()


def address(said: IO[str]) -> tuple[str, str]:
    """What the command prints once it serves."""
    lines = []
    for line in said:
        lines.append(line)
        if line.startswith("api_key: "):
            return lines[-2].split()[1], line.split()[1]
    pytest.fail("".join(lines))


def test_calls_are_sampled_as_they_ask(served: Served):
    with openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0) as client:

        def said(**given: Any) -> list[Any]:
            asked: Any = {"model": "m", "messages": PROBLEM, "logprobs": True, **given}
            return client.chat.completions.create(**asked).choices

        def tokens(choice: Any) -> list[str]:
            return [entry.token for entry in choice.logprobs.content]

        [greedy], [again] = said(temperature=0), said(temperature=0)
        assert greedy.message.content == again.message.content
        for narrow in ({"top_p": 0.01}, {"temperature": 2, "extra_body": {"top_k": 1}}):
            assert {c.message.content for c in said(n=4, **narrow)} == {greedy.message.content}
        assert len({c.message.content for c in said(n=16, temperature=2, max_tokens=20)}) > 1
        # The starter repeats itself ("12 + 30 = 42"), unless it must not.
        assert len(set(tokens(greedy))) < len(tokens(greedy))
        [other] = said(temperature=0, max_tokens=8, extra_body={"repetition_penalty": 50.0})
        assert len(set(tokens(other))) == len(tokens(other))


def test_json_is_as_its_schema_says(served: Served):
    with openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0) as client:
        create = client.chat.completions.create
        told: Any = {"model": "m", "messages": PROBLEM, "max_tokens": 400}
        form: Any = {"type": "json_schema", "json_schema": {"name": "digit", "schema": SCHEMA}}
        for _ in range(3):
            said = create(**told, response_format=form).choices[0]
            if said.finish_reason == "stop":  # whitespace has no end where nobody has learnt JSON
                assert json.loads(said.message.content or "")["x"] in range(10)
        wrong: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
        with pytest.raises(openai.BadRequestError, match="does not support the schema"):
            create(**told, response_format=wrong)
        assert create(**told, temperature=0).choices, "it goes on"


def test_other_protocols_and_other_keys(served: Served):
    with openai.OpenAI(base_url=served.url, api_key=f"{served.key}/two", max_retries=0) as client:
        first = client.responses.create(model="m", input="Compute 3 + 4.", temperature=0)
        second = client.responses.create(model="m", input="Again.", previous_response_id=first.id)
        assert second.output_text
    with anthropic.Anthropic(base_url=served.url, api_key=f"{served.key}/two", max_retries=0) as anthropics:
        body: Any = {"temperature": 0}
        said = anthropics.messages.create(model="m", max_tokens=40, messages=PROBLEM, extra_body=body)
        assert said.content
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served.url, api_key="sk-another", max_retries=0).models.list()
    key = {"x-api-key": f"{served.key}/two"}
    httpx.post(f"{served.url}/reward", json={"reward": 0.5}, headers=key, trust_env=False).raise_for_status()


def test_an_evaluation_takes_it_for_any_endpoint(served: Served, tmp_path: Path):
    def evaluate(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "areal", "eval", "--env", "math-v1", "--problems", "8"]
        told = {**os.environ, "OPENAI_API_KEY": served.key}
        return subprocess.run(
            [*command, "--model", f"{served.url}#m", *words],
            cwd=tmp_path, env=told, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = evaluate("--temperature", "0.6", "evaluation.top_p=0.95", "evaluation.top_k=20")
    assert done.returncode == 0, done.stdout + done.stderr
    refused = evaluate("--temperature", "0.001")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stdout + refused.stderr
    *_, last = refused.stderr.splitlines()
    assert last.startswith("areal: error: the model rejects the request: ")
    assert "temperature=0.001: give 0, or a value of at least 0.01" in last


def test_ctrl_c_ends_it_and_every_session_is_kept(served: Served):
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert children
    served.process.send_signal(signal.SIGINT)
    rest, _ = served.process.communicate()
    assert served.process.returncode == 130, rest
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "areal: stopped"
    assert psutil.wait_procs(children, timeout=60)[1] == []
    rollouts, decode = read_sessions(served.record)
    rewards = sorted(rollout.episode.reward for rollout in rollouts)
    assert rewards == [0, 0.5]
    two = next(rollout for rollout in rollouts if rollout.episode.reward == 0.5)
    assert [len(t.turns) for t in two.episode.trajectories] == [2, 1], (
        "the second response goes on from the first"
    )
    text = decode(two.episode.trajectories[1].tokens.tolist())
    assert "Compute 12 + 30." in text
    assert json.loads(served.record.read_text().splitlines()[0])["model"] == resolve_model("starter")
