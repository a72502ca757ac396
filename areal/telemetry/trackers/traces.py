"""Converts episodes to traces, following OpenTelemetry's semantic conventions for generative AI.

Source: github.com/open-telemetry/semantic-conventions-genai, ``docs/gen-ai``: agent spans, client spans, and
execution of tools. They are in development; attributes without a standard name are below ``areal.``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span as OpenSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from areal.spans import Span
from areal.telemetry.trackers.interface import PROJECT, Consumed
from areal.trajectory import Episode, Finish, Trajectory

_SHORTEST_WAIT = 0.001
"""Minimum seconds of waiting for an environment's worker that have their own span."""
_REASONS: dict[Finish, str] = {"eos": "stop", "stop": "stop", "length": "length"}


class Tracer:
    """Creates the spans of episodes, with the recorded times of the episodes.

    Args:
        run_id: the tracker's id of the run.
        name: name of the run's directory.
        config: the run's configuration, nested.
        contents: whether spans include the text that the model read and wrote.
    """

    def __init__(self, run_id: str, name: str, config: dict[str, Any], contents: bool) -> None:
        self._run_id, self._name, self._contents = run_id, name, contents
        self._agent, self._env, self._model = config["agent"], config["env"], config["model"]
        rollout = config["rollout"]
        self._request = {
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": self._model,
            "gen_ai.request.temperature": rollout["temperature"],
            "gen_ai.request.max_tokens": rollout["max_new_tokens"],
        }
        self._ids, self._ended = _Ids(), _Ended()
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # no variable sets it
            resource = resource.merge(Resource({SERVICE_NAME: PROJECT}))
        provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("areal")

    def spans(self, consumed: Consumed) -> list[ReadableSpan]:
        """Return the spans of all episodes that the sampler selects."""
        for group in consumed.groups:
            for number, episode in enumerate(group.episodes, 1):
                self._ids.begin(self._run_id, group.id, number)
                self._trace(consumed, group.id, number, episode)
        return self._ended.taken()

    def _trace(self, consumed: Consumed, group: int, number: int, episode: Episode) -> None:
        versions = [v for t in episode.trajectories for v in t.versions[t.loss_mask].tolist()]
        root = self._tracer.start_span(
            f"invoke_agent {self._agent}",
            kind=SpanKind.INTERNAL,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": self._agent,
                **self._request,
                "gen_ai.usage.input_tokens": sum(turn for t in episode.trajectories for turn in t.turns),
                "gen_ai.usage.output_tokens": episode.sampled,
                "gen_ai.response.finish_reasons": [_REASONS.get(episode.finish, episode.finish)],
                "areal.run": self._name,
                "areal.env": episode.env or self._env,
                "areal.task": json.dumps(episode.task, default=str),
                "areal.step": consumed.step,
                "areal.group": group,
                "areal.episode": number,
                "areal.finish": episode.finish,
                "areal.reward": episode.reward,
                **{f"areal.reward.{name}": value for name, value in episode.reward_parts.items()},
                **_of_versions(versions),
                "areal.staleness": consumed.step - 1 - min(versions),
            },
            start_time=_ns(episode.started),
        )
        if not root.is_recording():  # the sampler omits it
            return
        self._children(root, consumed, episode)
        if episode.failure:
            root.set_attribute("error.type", "_OTHER")
            root.set_status(Status(StatusCode.ERROR, episode.failure))
        root.end(_ns(episode.ended))

    def _children(self, root: OpenSpan, consumed: Consumed, episode: Episode) -> None:
        turns = {
            str(call): (trajectory, turn)
            for trajectory in episode.trajectories
            for turn, call in enumerate(trajectory.calls)
        }
        env = episode.env or self._env
        steps: list[tuple[Span, OpenSpan]] = []
        # In order of their starts, so that a call of the environment precedes the spans within it.
        for span in sorted(episode.spans, key=lambda span: (span.begun, -span.seconds)):
            if span.kind == "model":
                self._chat(root, span, consumed, *turns.get(span.name, (None, 0)))
            elif span.kind == "tool":
                tool = {"gen_ai.tool.name": span.name, "gen_ai.tool.type": "function"}
                attributes = {"gen_ai.operation.name": "execute_tool", **tool}
                self._child(root, span, f"execute_tool {span.name}", attributes)
            elif span.kind == "env":
                steps.append((span, self._child(root, span, f"{span.name} {env}", {"areal.env": env})))
            elif span.kind == "verifier":
                middle = span.begun + span.seconds / 2
                around = [made for step, made in steps if 0 <= middle - step.begun <= step.seconds]
                self._child(around[-1] if around else root, span, f"verify {span.name}", {})
            elif span.seconds >= _SHORTEST_WAIT:
                self._child(root, span, "wait for a worker", {"areal.env": env})

    def _chat(
        self, root: OpenSpan, span: Span, consumed: Consumed, trajectory: Trajectory | None, turn: int
    ) -> None:
        attributes = {"gen_ai.operation.name": "chat", **self._request}
        if trajectory is None:  # the agent, or its program, did not wait for the response
            attributes["error.type"] = "_OTHER"
        else:
            attributes |= self._of_turn(trajectory, turn, consumed)
        self._child(root, span, f"chat {self._model}", attributes, SpanKind.CLIENT)

    def _of_turn(self, trajectory: Trajectory, turn: int, consumed: Consumed) -> dict[str, Any]:
        begin, last = trajectory.turns[turn], turn + 1 == len(trajectory.turns)
        end = len(trajectory) if last else trajectory.turns[turn + 1]
        sampled = begin + trajectory.loss_mask[begin:end].nonzero()[0]
        found: dict[str, Any] = {
            "gen_ai.usage.input_tokens": begin,
            "gen_ai.usage.output_tokens": len(sampled),
            "areal.reward": trajectory.rewards[turn],
            **_of_versions(trajectory.versions[sampled].tolist()),
        }
        reason = _REASONS.get(trajectory.finish, trajectory.finish) if last else ""
        if reason:  # it is not recorded for the others
            found["gen_ai.response.finish_reasons"] = [reason]
        if self._contents:
            history = [_message(*part) for part in _parts(trajectory, begin, consumed)]
            response = trajectory.tokens[begin : sampled[-1] + 1].tolist()
            said = _message("assistant", consumed.decode(response))
            found["gen_ai.input.messages"] = _json(history)
            found["gen_ai.output.messages"] = _json([{**said, "finish_reason": reason or "unknown"}])
        return found

    def _child(
        self,
        parent: OpenSpan,
        span: Span,
        name: str,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> OpenSpan:
        context, start = set_span_in_context(parent), _ns(span.begun)
        made = self._tracer.start_span(name, context, kind, attributes, start_time=start)
        if "error.type" in attributes:
            made.set_status(Status(StatusCode.ERROR))
        made.end(_ns(span.begun + span.seconds))
        return made


class _Ended(SpanProcessor):
    """Stores ended spans until they are taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._spans.append(span)

    def taken(self) -> list[ReadableSpan]:
        taken, self._spans = self._spans, []
        return taken


class _Ids(IdGenerator):
    """Creates the same ids for the same episode each time, whether or not its trace was sent before."""

    def begin(self, *episode: Any) -> None:
        self._episode, self._numbers = repr(episode), itertools.count()

    def generate_trace_id(self) -> int:
        return self._id(16)

    def generate_span_id(self) -> int:
        return self._id(8)

    def _id(self, size: int) -> int:
        key = f"{self._episode} {size} {next(self._numbers) if size == 8 else ''}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=size).digest())


def _of_versions(versions: list[int]) -> dict[str, int]:
    """Return the versions of the weights that sampled the tokens, as attributes."""
    return {"areal.version.oldest": min(versions), "areal.version.newest": max(versions)}


def _parts(trajectory: Trajectory, end: int, consumed: Consumed) -> Iterator[tuple[str, str]]:
    """Yield role and text for the tokens before ``end``; the chat template's tokens count as the user's."""
    responses = trajectory.responses
    for said, part in itertools.groupby(range(end), key=lambda i: bool(responses[i])):
        yield "assistant" if said else "user", consumed.decode(trajectory.tokens[list(part)].tolist())


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
