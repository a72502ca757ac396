"""Checks how a model's chat template renders a conversation, and what areal can train on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from areal.agents.interface import BadRequest, Message, Tool
from areal.rollout.rendering import Renderer
from areal.rollout.tools.formats import FORMATS
from areal.rollout.turn_end import missed_end, stops
from areal.thoughts import CLOSE, OPEN, marks_thoughts

_QUESTION, _ANSWER, _NEXT = "What is 2 + 3?", "It is 5.", "And 2 + 4?"
_THOUGHT = f"{OPEN}\nTwo and three.\n{CLOSE}\n\n"
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        what: name of the check.
        sound: whether the result is good; None: information only.
        text: the result.
        differences: differences of log-probabilities, if they were compared.
    """

    what: str
    sound: bool | None
    text: str
    differences: tuple[float, ...] = ()


def chat_findings(tokenizer: Any, eos: tuple[int, ...]) -> Iterator[Finding]:
    """Yield the findings on a tokenizer's chat template."""
    template = tokenizer.chat_template
    if template is None:
        yield Finding("chat template", None, "none: the model reads the plain text of all messages")
        return
    renderer = Renderer(tokenizer, eos)
    opening = renderer.opening([_user(_QUESTION)])
    yield Finding("generation prompt", True, repr(opening.text.rpartition(_QUESTION)[2]))
    yield _end_of_turn(tokenizer, renderer)
    yield _earlier_turns(renderer, opening.text, _ANSWER, "earlier turns")
    if marks_thoughts(template):
        opened = opening.text.rstrip().endswith(OPEN)
        said = _THOUGHT.removeprefix(OPEN) if opened else _THOUGHT
        yield _earlier_turns(renderer, opening.text, said + _ANSWER, "earlier thoughts")
        if switch := re.search(r"\b(enable_thinking|thinking|reasoning_effort)\b", template):
            yield Finding(
                "thinking", None, f"chat.template_kwargs.{switch.group()} turns thinking on and off"
            )
    yield from _tools(renderer)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _end_of_turn(tokenizer: Any, renderer: Renderer) -> Finding:
    listed = ", ".join(stops(tokenizer, renderer))
    missed = missed_end(tokenizer, renderer)
    if missed is None:
        return Finding("end of turn", True, f"the model stops at {listed}")
    return Finding(
        "end of turn",
        False,
        f"the template ends a turn with {missed!r}, at which the model does not stop (it stops at "
        f"{listed}); add the token to eos_token_id in generation_config.json",
    )


def _earlier_turns(renderer: Renderer, before: str, said: str, what: str) -> Finding:
    history = [_user(_QUESTION), _said(said), _user(_NEXT)]
    if renderer.continuation(before, said, renderer.eos_ids[0], history) is not None:
        return Finding(what, True, "unchanged: a conversation is one trajectory")
    return Finding(what, None, "rewritten: each turn of a conversation is a separate trajectory")


def _tools(renderer: Renderer) -> Iterator[Finding]:
    known = renderer.tools.format
    if known is None:
        names = ", ".join(format.name for format in FORMATS)
        yield Finding("tools", False, f"in a format that areal does not read (it reads {names})")
        return
    try:
        opening = renderer.opening([_user(_QUESTION)], [_TOOL])
        if not renderer.tools.shows:
            described = "not in the template: the system message describes them"
            yield Finding("tools", None, f"{described}; areal reads calls as {known.name}")
            return
        call = {
            "id": "call_0_0",
            "type": "function",
            "function": {"name": "add", "arguments": {"a": 2, "b": 3}},
        }
        said: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
        result: Message = {"role": "tool", "tool_call_id": "call_0_0", "name": "add", "content": "5"}
        after = renderer.opening([_user(_QUESTION), said, result], [_TOOL])
    except BadRequest as error:
        yield Finding("tools", False, str(error))
        return
    if "add" not in opening.text or "5" not in after.text.removeprefix(opening.text):
        yield Finding("tools", False, "the template drops the tool, or its result")
        return
    yield Finding("tools", True, known.name)
