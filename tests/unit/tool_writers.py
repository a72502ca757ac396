"""Calls as models of each format write them, and vLLM's reader of that format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from areal.rollout.tools.formats import FORMATS, Format

Calls = Sequence[tuple[str, str]]
"""Names, and arguments as they are spelled: JSON, but for Python and tags."""

_SECTION = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def listed(key: str, between: str = ", ") -> Callable[[Calls], str]:
    return lambda calls: between.join(f'{{"name": "{name}", "{key}": {given}}}' for name, given in calls)


def kimi(calls: Calls) -> str:
    begin, argument, end = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
    made = [f"{begin}functions.{name}:{i}{argument}{given}{end}" for i, (name, given) in enumerate(calls)]
    return f"<|tool_calls_section_begin|>{''.join(made)}<|tool_calls_section_end|>"


def deepseek_v3(calls: Calls) -> str:
    made = [f"{_CALL}function{_SEP}{name}\n```json\n{given}\n```{_END}" for name, given in calls]
    return _SECTION[0] + "\n".join(made) + _SECTION[1]


def deepseek_v31(calls: Calls) -> str:
    return _SECTION[0] + "".join(f"{_CALL}{name}{_SEP}{given}{_END}" for name, given in calls) + _SECTION[1]


def harmony(calls: Calls) -> str:
    head = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
    return "<|start|>assistant".join(head.format(*call) for call in calls)


def hermes(calls: Calls) -> str:
    return "\n".join(f"<tool_call>\n{listed('arguments')([call])}\n</tool_call>" for call in calls)


@dataclass(frozen=True)
class Writer:
    """Writes JSON calls in one way.

    Attributes:
        parser: vLLM's name of its reader.
        beside: whether words may stand beside the calls.
    """

    known: Format
    write: Callable[[Calls], str]
    parser: str | None
    beside: bool = True

    def dumped(self, calls: Sequence[tuple[str, Any]]) -> str:
        return self.write([(name, json.dumps(given, ensure_ascii=False)) for name, given in calls])


def of(name: str) -> Format:
    (known,) = [known for known in FORMATS if known.name.startswith(name)]
    return known


WRITERS = {
    "hermes": Writer(of("JSON in <tool_call>"), hermes, "hermes"),
    "llama": Writer(of("JSON (Llama"), listed("parameters", "; "), "llama3_json", beside=False),
    "llama-tag": Writer(
        of("JSON (Llama"),
        lambda calls: "<|python_tag|>" + listed("parameters", "; ")(calls),
        "llama3_json",
        beside=False,
    ),
    "mistral": Writer(
        of("[TOOL_CALLS]"),
        lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{given}" for name, given in calls),
        "mistral",
    ),
    # vLLM reads lists with a tokenizer of Mistral's own only.
    "mistral-list": Writer(
        of("[TOOL_CALLS]"), lambda calls: f"[TOOL_CALLS] [{listed('arguments')(calls)}]", None
    ),
    "deepseek-v3": Writer(of("DeepSeek"), deepseek_v3, "deepseek_v3"),
    "deepseek-v3.1": Writer(of("DeepSeek"), deepseek_v31, "deepseek_v31"),
    "kimi": Writer(of("Kimi"), kimi, "kimi_k2"),
    "granite": Writer(of("a list"), lambda calls: f"<|tool_call|>[{listed('arguments')(calls)}]", "granite"),
    "phi": Writer(of("a list"), lambda calls: f"functools[{listed('arguments')(calls)}]", "phi4_mini_json"),
    "phi-tags": Writer(
        of("a list"), lambda calls: f"<|tool_call|>[{listed('arguments')(calls)}]<|/tool_call|>", None
    ),
    # Its reader needs a vocabulary from the hub.
    "harmony": Writer(of("harmony"), harmony, None, beside=False),
}
