"""Conversations through the chat templates of common models: what is asked is what the template has.

A conversation with thoughts and tool calls, of up to ten turns, is one trajectory for as long as its template
leaves earlier turns as they were, and another one where it does not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from chat import ENDS, OTHERS, Scripted, check, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.agents.interface import Message, Reply
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.rollout.tools.formats import FORMATS, with_tools_described
from areal.thoughts import marks_thoughts

TEMPLATES = sorted(ENDS | OTHERS)
TOKENIZERS = {name: tokenizer(name, thought_tokens=name in OTHERS) for name in TEMPLATES}
OPENED = {"deepseek-r1", "qwen3-thinking"}
"""Their templates begin each thought."""
NO_TOOLS = {"starter", "chatml", "deepseek-r1", "glm-thinking"}
"""They show no tools."""
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
MISTRAL = "mistral-moving"
"""Its template has the tools before what the user said last, wherever that is."""
BLOCK = '<tool_call>\n{"name": "look", "arguments": {"at": 12}}\n</tool_call>'
CALLS = {
    "llama3": '{"name": "look", "parameters": {"at": 12}}',
    MISTRAL: '[TOOL_CALLS] [{"name": "look", "arguments": {"at": 12}}]',
}


@dataclass(frozen=True)
class Turn:
    """What the model says, and what it is told next.

    Attributes:
        thought: its words; empty: it does not think, or has nothing to think.
        calls: it calls a tool; otherwise it says the words.
        ended: whether it ends its turn, or is cut off.
    """

    thought: str
    calls: bool
    words: str
    told: str
    ended: bool

    def text(self, template: str) -> str:
        said = CALLS.get(template, BLOCK) if self.calls else self.words
        return thought_text(template, self.thought) + said

    def ids(self, template: str) -> list[int]:
        made = TOKENIZERS[template]
        end = "<|observation|>" if template == "glm-thinking" and self.calls else (ENDS | OTHERS)[template]
        text = self.text(template) + end * self.ended
        return made.encode(text, add_special_tokens=False)


def thought_text(template: str, thought: str) -> str:
    """A thought as the model of a template spells it."""
    if template in OPENED:
        return f"{thought}\n</think>\n\n"
    if not thought or template in ("llama3", MISTRAL):  # whose calls stand alone
        return ""
    form = "\n<think>{}</think>\n" if template == "glm-thinking" else "<think>\n{}\n</think>\n\n"
    return form.format(thought)


WORDS = st.sampled_from(["aba", "the 12", "b\n\nb", "1 < 2"])
TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["", "the aba", "12\n\n12"]), st.booleans(), WORDS, WORDS, st.booleans()),
    min_size=1,
    max_size=10,
)


def rendered(template: str, messages: list[Message]) -> str:
    made, tools = TOKENIZERS[template], [TOOL]
    if template in NO_TOOLS:
        messages, tools = with_tools_described([*map(as_words, messages)], tools, FORMATS[0].example), []
    kwargs: Any = {"tools": tools or None, "tokenize": False, "add_generation_prompt": True}
    return made.apply_chat_template(messages, **kwargs)


def as_words(message: Message) -> Message:
    """A message with its calls among its words."""
    calls = [BLOCK] * len(message.get("tool_calls", ()))
    words = [message["content"]] if message["content"] or not calls else []
    return {**message, "content": "\n".join([*words, *calls])}


def bare(text: str) -> str:
    """A text without its thoughts, and without white space, which templates trim."""
    return "".join(re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).split())


def following(reply: Reply, words: str) -> list[Message]:
    """What a client says next: the results of tool calls, or something as the user."""
    calls = reply.message.get("tool_calls", ())
    results = [{"role": "tool", "tool_call_id": call["id"], "content": words} for call in calls]
    return results or [{"role": "user", "content": words}]


def read(message: Message) -> Message:
    """A message with the arguments of its calls as templates want them."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def seen(template: str, text: str) -> str:
    """What is compared of a text: all of it; of Mistral's neither spaces nor what only calls apart have."""
    if template != MISTRAL:
        return text
    return "".join(re.sub(r'\[TOOL_CALLS]|, "id": "\w+"|call[_\d]+', "", text).split())


class Conversed:
    """A conversation, call by call.

    Attributes:
        asked: the text of each prompt, as the model reads it.
        wanted: what the template makes of all messages then. Responses stand there word for word, if what
            was asked last, and the response to it, are the beginning of that; else as they are sent, as of
            Mistral always: its template does not take calls as words.
        forks: how often they were not.
    """

    def __init__(self, template: str, turns: list[Turn], keep_thoughts: bool) -> None:
        self._template, self._turns = template, turns
        made = TOKENIZERS[template]
        eos = made.eos_token_id, made.convert_tokens_to_ids("<|observation|>")
        renderer = Renderer(made, eos[: 1 + (template == "glm-thinking")], keep_thoughts=keep_thoughts)
        self.engine = Scripted([])
        self.model = Recorder(self.engine, renderer, Sampling(1000), 100_000)
        self.asked: list[str] = []
        self.wanted: list[str] = []
        self.forks = 0
        asyncio.run(self._converse())
        self.trajectories = self.model.trajectories()
        check(self.engine, self.trajectories, set(range(len(turns))))

    async def _converse(self) -> None:
        messages: list[Message] = [{"role": "user", "content": "go"}]
        history, before = list(messages), ""
        for turn in self._turns:
            self.engine.responses.append(turn.ids(self._template))
            reply = await self.model.chat(messages, tools=[TOOL])
            assert (reply.finish == "tool_calls") == turn.calls
            if self._template == MISTRAL:
                history = list(map(read, messages))
            if not self._begins(history, before):
                self.forks += 1
                history = list(map(read, messages))
            self.wanted.append(rendered(self._template, history))
            self.asked.append(TOKENIZERS[self._template].decode(self.engine.asked[-1]))
            said = "" if self._template == MISTRAL else turn.text(self._template)
            before = self.wanted[-1] + said
            new = following(reply, turn.told)
            messages += [reply.message, *new]
            history += [{"role": "assistant", "content": reply.text}, *new]

    def _begins(self, history: list[Message], before: str) -> bool:
        """Whether a text is the beginning of what the template makes of a history."""
        text = rendered(self._template, history)
        return seen(self._template, text).startswith(seen(self._template, before))


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(turns=TURNS)
def test_a_conversation_is_what_its_template_makes_of_it(template: str, turns: list[Turn]):
    """Word for word, and in one trajectory exactly as long as earlier turns stay as they were."""
    said = Conversed(template, turns, keep_thoughts=False)
    assert [seen(template, asked) for asked in said.asked] == [seen(template, text) for text in said.wanted]
    assert len(said.trajectories) == said.forks + 1
    if template in ("starter", "chatml", "qwen2.5", "llama3", "smollm3"):
        assert said.forks == 0
    if template == "deepseek-r1":
        assert said.forks == len(turns) - 1, "each turn's thought is gone, an empty one too"


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(turns=TURNS)
def test_kept_thoughts_are_all_that_differs(template: str, turns: list[Turn]):
    said = Conversed(template, turns, keep_thoughts=True)
    if template == MISTRAL:  # tools are no thoughts
        assert len(said.trajectories) == said.forks + 1
        return
    assert len(said.trajectories) == 1
    for number, asked in enumerate(said.asked):
        for turn in turns[:number]:
            assert thought_text(template, turn.thought).strip() in asked
        assert bare(asked) == bare(said.wanted[number])


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=10, deadline=None)
@given(turns=TURNS)
def test_thoughts_are_counted_in_each_turn(template: str, turns: list[Turn]):
    said = Conversed(template, turns, keep_thoughts=False)
    pairs = (zip(each.calls, each.thoughts, strict=True) for each in said.trajectories)
    thoughts = dict(itertools.chain(*pairs))
    for number, turn in enumerate(turns):
        text = thought_text(template, turn.thought).rstrip()
        found = thoughts[number]
        if not marks_thoughts(TOKENIZERS[template].chat_template):
            assert found is None
        else:
            assert found == (len(TOKENIZERS[template].encode(text, add_special_tokens=False)), "own")
