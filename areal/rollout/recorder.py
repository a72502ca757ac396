"""The model in one episode: every call becomes tokens of one of the episode's trajectories.

Guarantee: training uses exactly the sampled ids, each once. A call continues the conversation that its
history matches. It begins a new one if none matches, if the matching one is in flight for another call (it is
then a branch, with the shared tokens as context), or if the chat template rewrites history. A call that fails
or is cancelled leaves no trace.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from areal.agents.interface import (
    Account,
    BadRequest,
    ConversationTooLong,
    Endpoint,
    Message,
    Reply,
    SamplingLimits,
    Settings,
    Tool,
)
from areal.images import shifted
from areal.rollout.conversation import Conversation
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, GenerationAborted, Sampler, Sampling
from areal.rollout.engines import EpisodeEngines
from areal.rollout.histories import Histories, Texts
from areal.rollout.messages import SAID, Key, key, normal, normal_history, pictures, said_of
from areal.rollout.model import EpisodeModel
from areal.rollout.rendering import Prompt, Renderer
from areal.rollout.thought_budget import sample_response, was_cut
from areal.rollout.tools.response import Response
from areal.spans import Span, span
from areal.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class _Target:
    """The destination of a call's response: a conversation, the prompt, and the rendered messages."""

    conversation: Conversation
    prompt: Prompt
    messages: list[Message]


class Recorder(EpisodeModel):
    """An :class:`areal.agents.interface.Model` that records ids, log-probabilities, versions and rewards.

    Args:
        max_model_len: number of tokens of the longest conversation.
        server: the server at which programs reach the model.
        game: the recorder of the episode, if this one belongs to one of its players.

    Attributes:
        accounts: the records of the calls at each of its endpoints.
        spans: the timeline of the episode so far.
    """

    def __init__(
        self,
        engine: Sampler,
        renderer: Renderer,
        sampling: Sampling,
        max_model_len: int,
        server: EndpointServer | None = None,
        game: Recorder | None = None,
    ) -> None:
        super().__init__(sampling, game)
        self.sees = renderer.sees
        self._server = server
        self._engine = engine
        self._renderer = renderer
        self._max_model_len = max_model_len
        self._conversations: list[Conversation] = []
        self._histories = Histories()
        self._texts = Texts()
        self._latest: Conversation | None = None
        self.accounts: list[Account] = [] if game is None else game.accounts
        self.spans: list[Span] = [] if game is None else game.spans

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history; see :class:`areal.agents.interface.Model`.

        Raises:
            BadRequest: the template refuses the messages, or the last message is the assistant's.
            ConversationTooLong: there is no room for a response.
            GenerationAborted: the engine aborted the response.
        """
        history = await normal_history(messages)
        if not history or history[-1]["role"] == "assistant":
            raise BadRequest("the last message must be one that the assistant answers")
        keys = [key(message) for message in history]
        target = self._target(history, keys, tools)
        call, completion = await self._sample(target, limits)
        return self._record(target, keys, completion, call, tools)

    async def complete(self, text: str, *, limits: SamplingLimits | None = None) -> Reply:
        """Continue a text; see :class:`areal.rollout.endpoint.wire.ServedModel`.

        It continues a recorded conversation if it starts with an earlier text and everything that was sampled
        after it.
        """
        target = self._text_target(text)
        if not target.conversation.ids and not target.prompt.ids:
            raise BadRequest("the prompt is empty")
        call, completion = await self._sample(target, limits)
        prompt_tokens = self._append(target, completion, call)
        end = target.conversation.end_turn(target.prompt, [])
        said = self._renderer.decode(completion.ids)
        if self._renderer.spells(completion.ids, said):
            self._texts.add(text + said, target.conversation, end)
        finish: Any = "length" if completion.finish == "length" else "stop"
        message: Message = {"role": "assistant", "content": said}
        return Reply(message, said, finish, completion.ids, completion.logprobs, prompt_tokens)

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Count the tokens of a prompt; see :class:`areal.rollout.endpoint.wire.ServedModel`."""
        history = [normal(message) for message in messages]
        target = self._target(history, [key(message) for message in history], tools)
        return len(target.conversation.ids) + len(target.prompt.ids)

    def credit(self, reward: float, parts: dict[str, float] | None = None) -> None:
        """Add a reward, and its named parts, to those of the episode; the last turn receives the reward."""
        super().credit(reward, parts)
        if self._latest is not None:
            self._latest.credit(reward)

    async def disturbed(self) -> bool:
        """Return whether the episode may have waited for long because an engine was lost or frozen."""
        return isinstance(self._engine, EpisodeEngines) and await self._engine.disturbed()

    @asynccontextmanager
    async def endpoint(self, max_completions: int, settings: Settings = "ignore") -> AsyncIterator[Endpoint]:
        """Serve the model at an address; see :class:`areal.agents.interface.Model`."""
        if self._server is None:
            raise ValueError("this recorder has no endpoint")
        async with self._server.open(self, max_completions, settings) as at:
            self.accounts.append(at.account)
            yield at

    def trajectories(self) -> list[Trajectory]:
        """Return the conversations with samples, in the order of their first responses.

        Those of several players are in the order of the players' first calls.
        """
        found = self.own_trajectories()
        for name, player in self.players.items():
            found += [replace(said, player=name) for said in player.own_trajectories()]
        return sorted(found, key=lambda said: said.calls[0]) if self.players else found

    def own_trajectories(self) -> list[Trajectory]:
        """Return the conversations that belong to no other player."""
        return [conversation.trajectory() for conversation in self._conversations]

    def _new_player(self) -> Recorder:
        return Recorder(self._engine, self._renderer, self._sampling, self._max_model_len, self._server, self)

    def _target(self, history: list[Message], keys: list[Key], tools: Sequence[Tool]) -> _Target:
        found = self._histories.find(keys)
        if found is not None:
            conversation, end = found
            known = conversation.messages[: end.messages]
            messages = known + history[end.messages :]
            prompt = self._renderer.continuation(
                conversation.prompt_text[: end.prompt_chars],
                said_of(conversation.messages[end.messages - 1]),
                conversation.ids[end.tokens - 1],
                messages,
                tools,
                end.messages if list(end.tools) == list(tools) else None,
                len(pictures(known)),
            )
            if prompt is not None:
                if not conversation.continues_from(end):
                    conversation = Conversation(conversation, end)
                return _Target(conversation, prompt, messages)
        return _Target(Conversation(), self._renderer.opening(history, tools), history)

    def _text_target(self, text: str) -> _Target:
        found = self._texts.find(text)
        if found is None:
            return _Target(Conversation(), self._renderer.text(text), [])
        known, conversation, end = found
        if not conversation.continues_from(end):
            conversation = Conversation(conversation, end)
        return _Target(conversation, self._renderer.text(text, known), [])

    async def _sample(self, target: _Target, limits: SamplingLimits | None) -> tuple[int, Completion]:
        """Return the number of a call, and its response."""
        known = target.conversation
        ids = [*known.ids, *target.prompt.ids]
        images = [*known.images, *shifted(target.prompt.images, len(known.ids))]
        call = self._next_call()
        target.conversation.busy = True
        try:
            sampling = self._fitting(self._narrowed(call, limits or SamplingLimits()), len(ids))
            sampling = replace(sampling, experts_from=known.experts_known)
            # The call may come from a program, through a server that does not know the episode.
            with span("model", str(call), self.spans):
                completion = await sample_response(
                    self._engine, ids, sampling, self._renderer, target.prompt.text, images
                )
        finally:
            target.conversation.busy = False
        if completion.finish == "abort":
            raise GenerationAborted(f"the engine aborted a response after {len(completion.ids)} tokens")
        return call, completion

    def _append(self, target: _Target, completion: Completion, call: int) -> int:
        """Append a prompt and its response to their conversation; return the tokens before the response."""
        conversation = target.conversation
        conversation.append_prompt(target.prompt.ids, target.prompt.images)
        prompt_tokens = len(conversation.ids)
        thought = self._renderer.thought_of(completion.ids, target.prompt.text)
        if thought is not None and was_cut(completion):
            thought = thought._replace(end="budget")
        conversation.append_completion(completion, call, thought)
        if not conversation.turn_ends:
            self._conversations.append(conversation)
        self._latest = conversation
        return prompt_tokens

    def _fitting(self, sampling: Sampling, length: int) -> Sampling:
        """Shorten the response to the room that a conversation of ``length`` tokens leaves."""
        room = self._max_model_len - length
        if room < 1:
            raise ConversationTooLong(
                f"the conversation has {length} tokens, and this model's maximum context length is "
                f"{self._max_model_len}; increase rollout.max_model_len, or remove long problems"
            )
        return replace(sampling, max_tokens=min(sampling.max_tokens, room))

    def _record(
        self, target: _Target, keys: list[Key], completion: Completion, call: int, tools: Sequence[Tool]
    ) -> Reply:
        """Record a response. Nothing is awaited from here on, so it is recorded completely or not at all."""
        conversation, prompt = target.conversation, target.prompt
        prompt_tokens = self._append(target, completion, call)
        response = self._renderer.response(completion.ids, prompt.text, tools)
        message = _message(response, call)
        sampled = {**normal(message), SAID: response.said}
        end = conversation.end_turn(prompt, [*target.messages, sampled], tools)
        self._histories.add([*keys, key(normal(message))], conversation, end)
        calls = "tool_calls" in message
        return Reply(
            message=message,
            text=response.text,
            finish="tool_calls" if calls else "length" if completion.finish == "length" else "stop",
            ids=completion.ids,
            logprobs=completion.logprobs,
            prompt_tokens=prompt_tokens,
            thought=self._renderer.thought_length(message["content"], prompt.text),
        )


def _message(response: Response, call: int) -> Message:
    """Return a response as a message; the ids of its calls are unique in the episode."""
    message: Message = {"role": "assistant", "content": response.words}
    if response.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{call}_{i}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
            }
            for i, (name, arguments) in enumerate(response.calls)
        ]
    return message
