"""Rollouts as traces: what OpenTelemetry's own packages send to a receiver of OTLP over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from chat import Scripted, renderer, tokenizer

from areal.agents.tool_use import ToolUse
from areal.config import parse_config
from areal.envs.text import UnicodeText
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.worker import RolloutWorker
from areal.spans import span
from areal.telemetry.trackers.interface import Consumed
from areal.telemetry.trackers.tracking import Trackers
from areal.trajectory import Episode, Group

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SOON = 120
"""Seconds in which something must have happened, on the slowest machine."""
TOKENIZER, RENDERER = tokenizer("qwen2.5"), renderer("qwen2.5")
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
MS = 10**6
"""Nanoseconds; the recorded times are rounded to less."""


class Judged(gymnasium.Env[str, str]):
    """One question, whose answer a verifier judges."""

    observation_space = action_space = UnicodeText(1000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        return "What is 6·7?", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        with span("verifier", "exact"):
            right = float(action == "42")
        return "", right, True, False, {"reward_parts": {"right": right}}


async def an_episode() -> Episode:
    """Version 0 of the weights calls a tool, and version 1 answers."""
    engine: Any = Scripted([[*TOKENIZER.encode(text), TOKENIZER.eos_token_id] for text in (CALL, "42")])
    pool = EnvironmentPool(Judged, 1)
    episode = await RolloutWorker(engine, RENDERER, ToolUse(), pool, 10_000).run_episode(
        {"seed": 3}, Sampling(1000)
    )
    await pool.close()
    return Episode.from_json(json.loads(json.dumps(episode.to_json())))  # as it is after a resumption


@contextmanager
def receiver(status: int = 200, hang: threading.Event | None = None) -> Iterator[tuple[str, list[Any]]]:
    """A receiver of OTLP over HTTP; give its address, and the requests that it decoded."""
    requests: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            requests.append(
                ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            )
            if hang is not None:
                hang.wait(SOON)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            if hang is not None:
                hang.set()
            server.shutdown()
            thread.join()


class Traced:
    """A run with this tracker, and all that it said and sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, address: str, **env: str) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        self.said: list[str] = []
        self.warned: list[str] = []
        self.trackers = Trackers(folder, self.said.append, self.warned.append)
        config = {"trackers": "opentelemetry", "model": "some/model", "env": "judged", "agent": "tool-use"}
        self.trackers.start(parse_config(config), 0)

    async def end(self) -> None:
        await self.trackers.close(True, SOON)


def consumed(step: int, *episodes: Episode) -> Consumed:
    return Consumed(step, [Group(5, 0, list(episodes))], lambda ids: str(TOKENIZER.decode(ids)))


def all_spans(requests: list[Any]) -> list[Any]:
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    def value(given: Any) -> Any:
        kind = given.WhichOneof("value")
        if kind == "array_value":
            return [value(each) for each in given.array_value.values]
        return getattr(given, kind)

    return {each.key: value(each.value) for each in span.attributes}


async def test_an_episode_is_a_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    episode = await an_episode()
    with receiver() as (address, requests):
        run = Traced(monkeypatch, tmp_path, address)
        run.trackers.log({"step": 1, "reward/mean": 0.5})
        run.trackers.rollouts(consumed(1, episode, episode))
        await run.end()
    assert (run.said, run.warned) == ([f"opentelemetry: {address}"], [])
    resources = [resource for request in requests for resource in request.resource_spans]
    assert {attributes(each.resource)["service.name"] for each in resources} == {"areal"}
    spans = all_spans(requests)
    assert len({span.trace_id for span in spans}) == 2, "a trace for each episode"
    assert len({span.span_id for span in spans}) == len(spans)
    spans = [span for span in spans if span.trace_id == spans[0].trace_id]
    named = {span.name: span for span in spans if not span.name.startswith("chat")}
    root, step = named["invoke_agent tool-use"], named["step judged"]
    assert not root.parent_span_id
    assert named["verify exact"].parent_span_id == step.span_id
    others = [span for span in spans if span not in (root, named["verify exact"])]
    assert {span.parent_span_id for span in others} == {root.span_id}

    chats = [span for span in spans if span.name == "chat some/model"]
    first, second = sorted(chats, key=lambda span: span.start_time_unix_nano)
    order = [named["reset judged"], first, named["execute_tool calculator"], second, step]
    assert len(others) == len(order)
    moments = [time for span in order for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert moments == sorted(moments), "each begins after the one before has ended"
    assert moments[0] >= root.start_time_unix_nano - MS
    assert moments[-1] <= root.end_time_unix_nano + MS
    assert abs(root.start_time_unix_nano / 1e9 - episode.started) < 0.001
    of_model = sum(s.end_time_unix_nano - s.start_time_unix_nano for s in (first, second))
    assert abs(of_model / 1e9 - episode.seconds["model"]) < 0.001

    found = attributes(root)
    assert found.pop("areal.run") == tmp_path.name
    assert found == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "tool-use",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "some/model",
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": sum(len(ids) for ids in asked(episode)),
        "gen_ai.usage.output_tokens": episode.sampled,
        "areal.env": "judged",
        "areal.task": '{"seed": 3}',
        "areal.step": 1,
        "areal.group": 5,
        "areal.episode": 1,
        "areal.finish": "eos",
        "areal.reward": 1.0,
        "areal.reward.right": 1.0,
        "areal.version.oldest": 0,
        "areal.version.newest": 1,
        "areal.staleness": 0,
    }
    found = attributes(second)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.usage.input_tokens"] == len(asked(episode)[1])
    assert found["gen_ai.usage.output_tokens"] == 3, "4, 2 and the end"
    assert (found["areal.version.oldest"], found["areal.version.newest"]) == (1, 1)
    assert found["areal.reward"] == 1.0
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    assert "gen_ai.response.finish_reasons" not in attributes(first), "it is not recorded"
    found = attributes(named["execute_tool calculator"])
    assert found["gen_ai.operation.name"] == "execute_tool"
    assert found["gen_ai.tool.name"] == "calculator"
    assert not {key for span in spans for key in attributes(span) if key.endswith("messages")}, "nobody asked"


def asked(episode: Episode) -> list[list[int]]:
    """The prompts of the turns."""
    [trajectory] = episode.trajectories
    return [trajectory.tokens[:turn].tolist() for turn in trajectory.turns]


async def test_contents_are_there_for_who_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    episode = await an_episode()
    with receiver() as (address, requests):
        asks = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}
        run = Traced(monkeypatch, tmp_path, address, **asks)
        run.trackers.rollouts(consumed(1, episode))
        await run.end()
    chats = [attributes(span) for span in all_spans(requests) if span.name.startswith("chat")]
    last = max(chats, key=lambda found: found["gen_ai.usage.input_tokens"])
    assert json.loads(last["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "42<|im_end|>"}], "finish_reason": "stop"}
    ]
    read = json.loads(last["gen_ai.input.messages"])
    assert [message["role"] for message in read] == ["user", "assistant", "user"]
    texts = [message["parts"][0]["content"] for message in read]
    assert "What is 6·7?" in texts[0]
    assert texts[1] == f"{CALL}<|im_end|>"
    assert "<tool_response>\n42\n</tool_response>" in texts[2]
    assert "".join(texts) == TOKENIZER.decode(asked(episode)[1])


async def test_an_episode_worth_0_by_a_failure_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    episode = await an_episode()
    episode.failure = "the program crashed"
    with receiver() as (address, requests):
        run = Traced(monkeypatch, tmp_path, address)
        run.trackers.rollouts(consumed(1, episode))
        await run.end()
    [root] = [span for span in all_spans(requests) if not span.parent_span_id]
    assert (root.status.code, root.status.message) == (2, "the program crashed")
    assert attributes(root)["error.type"] == "_OTHER"


async def test_who_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """By default, each tenth update is sent; where a sampler is set, it chooses among all of them."""
    episode, steps = await an_episode(), {1, 2, 3, 4, 11, 12}
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "opentelemetry").write_text("the name of the run")

    async def sent(**env: str) -> set[tuple[int, bytes]]:
        with receiver() as (address, requests):
            run = Traced(monkeypatch, tmp_path, address, **env)
            for step in sorted(steps):
                run.trackers.rollouts(Consumed(step, [Group(step, 0, [episode])], str))
            await run.end()
        roots = [span for span in all_spans(requests) if not span.parent_span_id]
        return {(attributes(root)["areal.step"], root.trace_id) for root in roots}

    default = await sent()
    assert {step for step, _ in default} == {1, 11}
    every = await sent(OTEL_TRACES_SAMPLER="always_on")
    assert {step for step, _ in every} == steps
    assert default < every, "the same episodes have the same ids, in a run that was resumed, too"
    some = await sent(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    assert set() < some < every
    assert await sent(OTEL_TRACES_SAMPLER="always_off") == set()


@pytest.mark.parametrize("fault", ["refuses", "hangs", "absent"])
async def test_a_receiver_that_takes_nothing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
):
    episode = await an_episode()
    with receiver(400, threading.Event() if fault == "hangs" else None) as (address, requests):
        if fault == "absent":
            address = "http://127.0.0.1:9"
        patience = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        run = Traced(monkeypatch, tmp_path, address, OTEL_TRACES_SAMPLER="always_on", **patience)
        for step in range(1, 4):
            run.trackers.rollouts(consumed(step, episode))
        await run.end()
    [warning] = run.warned
    assert warning.startswith("opentelemetry failed, and the run continues without it: ")
    assert f"{address} has not accepted the spans; engine.log has the reason" in warning
    assert fault == "absent" or len(requests) == 1, "nothing more is sent"


async def test_contents_must_be_asked_for_in_a_known_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asks = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "yes"}
    run = Traced(monkeypatch, tmp_path, "http://127.0.0.1:9", **asks)
    await run.end()
    [warning] = run.warned
    assert "CAPTURE_MESSAGE_CONTENT=yes is not valid; set it to one of true, span_only" in warning
