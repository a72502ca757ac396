"""Tokenizers with the chat templates of common models, and an engine that says what it is told to."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from areal.models import load_tokenizer, resolve_model
from areal.rollout.engine import Completion, Sampling
from areal.rollout.rendering import Renderer
from areal.trajectory import Finish, Trajectory

ENDS = {"starter": "<|end|>", "chatml": "<|im_end|>", "qwen2.5": "<|im_end|>", "qwen3": "<|im_end|>",
        "llama3": "<|eot_id|>"}  # fmt: skip
"""Each template with the token that ends a turn."""
OTHERS = {"deepseek-r1": "<｜end▁of▁sentence｜>", "glm-thinking": "<|user|>", "mistral-moving": "</s>",
          "qwen3-thinking": "<|im_end|>", "smollm3": "<|im_end|>"}  # fmt: skip
"""More of them, which begin, keep and drop thoughts, and show tools, each in its own way."""
_MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_OTHER_MARKS = "<|user|>", "<|observation|>", "<s>", "[TOOL_CALLS]"


def tokenizer(template: str, thought_tokens: bool = False) -> Any:
    """A byte-level tokenizer with a few merges, so that a text has several spellings; or the starter's.

    Args:
        thought_tokens: whether the marks of thoughts are a token each.
    """
    if template == "starter":
        return load_tokenizer(resolve_model("starter"))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("ab", "a"), ("t", "h"), ("th", "e"), ("Ċ", "Ċ"), ("1", "2")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    source = Path(__file__).parent / "templates" / f"{template}.jinja"
    if thought_tokens:
        made.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=(ENDS | OTHERS)[template],
        extra_special_tokens=[*_MARKS, *(_OTHER_MARKS if template in OTHERS else ())],
        chat_template=source.read_text(),
        clean_up_tokenization_spaces=False,
    )


def renderer(template: str) -> Renderer:
    made = tokenizer(template)
    return Renderer(made, (made.eos_token_id,))


def check(engine: Scripted, trajectories: list[Trajectory], calls: set[int]) -> None:
    """Each of these responses is in one trajectory, once, behind the very prompt that it is a response to."""
    found = []
    for t in trajectories:
        assert len(t.turns) == len(t.calls) == len(t.rewards) > 0
        assert t.calls == sorted(t.calls)
        covered = np.zeros(len(t), dtype=bool)
        for start in t.turns:
            number = int(t.versions[start])
            said = engine.said[number]
            part = slice(start, start + len(said.ids))
            assert t.tokens[:start].tolist() == engine.asked[number]
            assert t.tokens[part].tolist() == said.ids
            assert t.logprobs[part].tolist() == said.logprobs
            assert t.versions[part].tolist() == said.versions
            covered[part] = True
            found.append(number)
        assert (t.loss_mask == covered).all()
        assert (t.versions[~covered] == -1).all()
        assert (t.logprobs[~covered] == 0).all()
    assert sorted(found) == sorted(calls)


class Scripted:
    """Says ``responses`` one after the other; each token has a log-probability that no other one has.

    Attributes:
        asked: the ids that each response continues, by its number.
        said: the responses that were given, by their number.
        open: cleared, it holds calls back.
    """

    version, busy_seconds = 7, 0.0

    def __init__(self, responses: list[list[int]], finish: Finish = "eos") -> None:
        self.responses = deque(responses)
        self.finish: Finish = finish
        self.asked: list[list[int]] = []
        self.said: list[Completion] = []
        self.samplings: list[Sampling] = []
        self.open = asyncio.Event()
        self.open.set()

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        await self.open.wait()
        await asyncio.sleep(0)
        said = self.responses.popleft()
        number = len(self.said)
        logprobs = [-(number + (i + 1) / 1024) for i in range(len(said))]
        self.asked.append(ids)
        self.samplings.append(sampling)
        self.said.append(Completion(said, logprobs, [number] * len(said), self.finish))
        return self.said[-1]
