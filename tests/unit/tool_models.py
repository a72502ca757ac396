"""Tokenizers that do with tools what those of common models do: templates, special tokens, ends of turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chat
from tool_writers import WRITERS, Calls, of

from areal.rollout.rendering import Renderer
from areal.rollout.tools.formats import Format

_DEEPSEEK = (
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁sep｜>", "<｜User｜>", "<｜Assistant｜>"),
)
_KIMI = (
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
)
_HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>")


@dataclass(frozen=True)
class Model:
    """What is special about a model.

    Attributes:
        ends: tokens that end a turn; the first one ends a response that calls.
        special: other tokens that are special.
        writer: of its calls, in tool_writers; None: Python.
    """

    known: Format
    ends: tuple[str, ...]
    special: tuple[str, ...] = ()
    writer: str | None = None

    def write(self, calls: Calls) -> str:
        if self.writer is not None:
            return WRITERS[self.writer].write(calls)
        assert self.known.spell is not None
        return self.known.spell([(name, {}) for name, _ in calls])


MODELS = {
    "qwen2.5": Model(of("JSON in"), ("<|im_end|>",), (), "hermes"),
    "llama3": Model(of("JSON (Llama"), ("<|eot_id|>",), ("<|python_tag|>",), "llama-tag"),
    "llama4": Model(of("JSON (Llama"), ("<|eot|>",), ("<|python_start|>", "<|python_end|>"), "llama"),
    "llama3.2-python": Model(of("Python (Llama"), ("<|eot_id|>",)),
    "mistral": Model(of("[TOOL"), ("</s>",), ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), "mistral"),
    "mistral-lists": Model(of("[TOOL"), ("</s>",), ("[TOOL_CALLS]",), "mistral-list"),
    "deepseek-v3": Model(of("DeepSeek"), ("<｜end▁of▁sentence｜>",), _DEEPSEEK, "deepseek-v3"),
    "deepseek-v3.1": Model(of("DeepSeek"), ("<｜end▁of▁sentence｜>",), _DEEPSEEK, "deepseek-v3.1"),
    "kimi": Model(of("Kimi"), ("<|im_end|>",), _KIMI, "kimi"),
    "gpt-oss": Model(of("harmony"), ("<|call|>", "<|return|>"), _HARMONY, "harmony"),
    "granite": Model(of("a list"), ("<|end_of_text|>",), ("<|tool_call|>",), "granite"),
    "phi4": Model(of("a list"), ("<|end|>",), ("<|tool_call|>", "<|/tool_call|>"), "phi-tags"),
    "olmo3": Model(of("Python in"), ("<|im_end|>",)),
    "glm": Model(of("tags"), ("<|observation|>", "<|user|>"), ("<|assistant|>",)),
}  # fmt: skip


def tokenizer(name: str) -> Any:
    made = chat.tokenizer("chatml")
    model = MODELS[name]
    made.add_special_tokens({"extra_special_tokens": [*model.ends, *model.special]})
    made.eos_token = model.ends[0]
    made.chat_template = (Path(__file__).parent / "templates" / f"{name}.jinja").read_text()
    return made


def eos(made: Any, name: str) -> tuple[int, ...]:
    return tuple(made.convert_tokens_to_ids(end) for end in MODELS[name].ends)


def renderer(name: str) -> Renderer:
    made = tokenizer(name)
    return Renderer(made, eos(made, name))
