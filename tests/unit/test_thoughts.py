"""How long a thought is, how it ends, and what becomes of one whose budget is used up."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chat import Scripted, tokenizer
from dummy_batches import batch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.agents.interface import BadRequest, SamplingLimits
from areal.images import Image
from areal.learner.credit import response_lengths
from areal.rollout.engine import Completion, Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.rollout.thought_budget import sample_response
from areal.runtime.accounting import StepAccount
from areal.thoughts import Thought
from areal.trajectory import Trajectory

END = "aba\n</think>\n\n"
"""What ends a thought whose budget is used up."""
TOKENIZERS = {tokens: tokenizer("qwen3", thought_tokens=tokens) for tokens in (True, False)}
RENDERERS = {
    tokens: Renderer(made, (made.eos_token_id,), thought_end=END) for tokens, made in TOKENIZERS.items()
}
OPENED = "<|im_start|>assistant\n<think>\n"
"""The end of a prompt whose template begins the thought."""


def ids_of(text: str, tokens: bool = True, ended: bool = True) -> list[int]:
    made = TOKENIZERS[tokens]
    return [*made.encode(text, add_special_tokens=False), *[made.eos_token_id] * ended]


@pytest.mark.parametrize("tokens", [True, False], ids=["a token each", "spelled"])
@pytest.mark.parametrize(
    ("prompt", "text", "thought", "end"),
    [
        ("", "<think>\nthe aba\n</think>\n\n12", "<think>\nthe aba\n</think>", "own"),
        (OPENED, "the aba\n</think>\n\n12", "the aba\n</think>", "own"),
        ("", "<think>a</think>b</think>", "<think>a</think>", "own"),
        ("", "<think>\nthe aba", "all", "none"),
        (OPENED, "the aba", "all", "none"),
        ("", "12 </think>", "", "own"),
        ("", "I <think> so</think>", "", "own"),
        ("<think>\n\n</think>\n\n", "12", None, ""),
        ("<think>\n\n</think>\n\n", "<think>a</think>12", "<think>a</think>", "own"),
    ],
)
def test_what_of_a_response_is_its_thought(
    tokens: bool, prompt: str, text: str, thought: str | None, end: str
):
    ids = ids_of(text, tokens)
    found = RENDERERS[tokens].thought_of(ids, prompt)
    if thought is None:
        assert found is None
        return
    length = len(ids) if thought == "all" else len(ids_of(thought, tokens, ended=False))
    assert found == (length, end)


def test_a_mark_that_is_spelled_although_there_is_a_token_ends_the_thought_too():
    """What is judged is the text; the token that comes later is a word then."""
    thought = [*ids_of("<think>a</", ended=False), *ids_of("think>", ended=False)]
    assert RENDERERS[True].thought_of([*thought, *ids_of("b</think>c")], "") == (len(thought), "own")


def test_marks_that_are_special_tokens_are_seen():
    made = tokenizer("qwen3", thought_tokens=True)
    made.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    read = Renderer(made, (made.eos_token_id,))
    ids = [*made.encode("<think>aba</think>12", add_special_tokens=False), made.eos_token_id]
    assert read.decode(ids) == "<think>aba</think>12"
    assert read.thought_of(ids, "") == (5 - 2, "own")


async def test_a_template_without_thoughts_has_none():
    made = tokenizer("qwen2.5")
    ids = made.encode("<think>a</think>b", add_special_tokens=False)
    model = Recorder(Scripted([ids]), Renderer(made, (made.eos_token_id,)), Sampling(99), 999)
    await model.generate("go")
    assert model.trajectories()[0].thoughts == [None]


def test_metrics_of_thoughts_are_there_where_a_model_thinks():
    data = batch(0)

    def metrics(*thoughts: Thought | None) -> dict[str, float]:
        for trajectory in data.trajectories:
            trajectory.thoughts = []
        data.trajectories[1].thoughts = list(thoughts)
        found = StepAccount(0.0, 0).close(data, 1.0, {}, 1.0, 10)
        return {name[9:]: value for name, value in found.items() if name.startswith("response/thought")}

    assert metrics(None) == metrics() == {}
    assert metrics(Thought(0, "own")) == {"thought": 0, "thought_unended": 0, "thought_cut": 0}
    some = Thought(8, "none"), Thought(4, "budget"), None, Thought(0, "own"), Thought(8, "own")
    assert metrics(*some) == {"thought": 5, "thought_unended": 0.25, "thought_cut": 0.25}


class Chance:
    """A model whose next token depends on all that it reads, and on nothing else.

    Attributes:
        asked: the tokens of each request, and how many it may sample.
    """

    def __init__(self, seed: int, alphabet: list[int], eos: int) -> None:
        self._seed, self._alphabet, self._eos = seed, alphabet, eos
        self.asked: list[tuple[list[int], Sampling]] = []

    def next(self, ids: list[int]) -> int:
        return random.Random(f"{self._seed} {ids}").choice(self._alphabet)

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        self.asked.append((ids, sampling))
        said: list[int] = []
        finish: Any = "length"
        while len(said) < sampling.max_tokens and finish == "length":
            said.append(self.next([*ids, *said]))
            if said[-1] == self._eos:
                finish = "eos"
            elif any(stop in RENDERERS[True].decode(said) for stop in sampling.stop):
                finish = "stop"
        return Completion(said, [float(-token) for token in said], [3] * len(said), finish)


ALPHABET = [*ids_of("<>/think ab", ended=False), *ids_of("<think></think>", ended=False)]


def by_hand(model: Chance, ids: list[int], sampling: Sampling, prompt: str) -> tuple[list[int], int, str]:
    """The response token by token; how many tokens of it precede what was put in (-1: nothing was)."""
    read, eos = RENDERERS[True], TOKENIZERS[True].eos_token_id
    budget, ending = sampling.thinking_budget or 0, read.thought_end_ids
    said: list[int] = []
    put_in: list[int] = []
    cut, look = -1, budget
    while len(said) < sampling.max_tokens:
        room = sampling.max_tokens - len(said) - len(ending)
        if len(said) == look and room > 0:
            thought, text = read.thought_of(said, prompt), read.decode(said)
            thinks = thought is not None and thought.end == "none"
            more = 0
            if thinks and re.search("<(/(t(h(i(n(k)?)?)?)?)?)?$", text):
                more = 1
            elif not thinks and re.fullmatch(r"\s*(<(t(h(i(n(k)?)?)?)?)?)?", text):
                more = budget
            if 0 < more < room:
                look += more
            elif thinks:
                cut, put_in = len(said), list(ending)
        said.append(put_in.pop(0) if put_in else model.next([*ids, *said]))
        if said[-1] == eos:
            return said, cut, "eos"
        if any(stop in read.decode(said) for stop in sampling.stop):
            return said, cut, "stop"
    return said, cut, "length"


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    prompt=st.sampled_from(["", OPENED, "<think>\n\n</think>\n\n"]),
    budget=st.integers(1, 12),
    longest=st.integers(1, 40),
    stop=st.lists(st.text("ab<>/", min_size=1, max_size=3), max_size=2),
    rare_end=st.booleans(),
)
def test_a_response_is_what_one_request_would_have_sampled(
    seed: int, prompt: str, budget: int, longest: int, stop: list[str], rare_end: bool
):
    """But for what ends the thought, which nobody sampled; and stop strings may begin and end in any part."""
    eos = TOKENIZERS[True].eos_token_id
    model = Chance(seed, ALPHABET * (9 if rare_end else 1) + [eos], eos)
    sampling = Sampling(longest, stop=tuple(stop), thinking_budget=budget)
    ids = ids_of(f"the{prompt}", ended=False)
    found = asyncio.run(sample_response(model, ids, sampling, RENDERERS[True], prompt))
    said, cut, finish = by_hand(model, ids, sampling, prompt)
    assert (found.ids, found.finish) == (said, finish)
    put_in = [cut != -1 and cut <= i < cut + len(ids_of(END, ended=False)) for i in range(len(said))]
    assert found.versions == [-1 if given else 3 for given in put_in]
    assert found.logprobs == [0.0 if given else -token for given, token in zip(put_in, said, strict=True)]
    whole = [sampling.max_tokens for _, sampling in model.asked[1:-1]]
    assert set(whole) <= {1, budget}, "more than two parts are of what is not known to be a thought yet"


class Says:
    """A model that says what it is given."""

    def __init__(self, ids: list[int]) -> None:
        self._left = ids
        self.asked: list[list[int]] = []

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        self.asked.append(ids)
        said, self._left = self._left[: sampling.max_tokens], self._left[sampling.max_tokens :]
        finish: Any = "length" if self._left else "eos"
        return Completion(said, [-1.0] * len(said), [3] * len(said), finish)


async def said_within(budget: int, text: str, longest: int = 99, stop: tuple[str, ...] = ()) -> str:
    """What a model that would say a text has said with a budget; its marks are spelled in several tokens."""
    sampling = Sampling(longest, stop=stop, thinking_budget=budget)
    found = await sample_response(Says(ids_of(text, False)), [1], sampling, RENDERERS[False], "")
    assert len(found.ids) == len(found.logprobs) == len(found.versions) <= longest
    return RENDERERS[False].decode(found.ids)


async def test_a_thought_that_is_about_to_end_is_let_end():
    text = "<think>a < b</think>12"
    begun = len(ids_of("<think>a < b", False, ended=False))
    for budget in range(begun + 1, begun + 8):
        assert await said_within(budget, text) == text
    assert await said_within(begun, text) == f"<think>a < b{END}</think>12"
    # What may be the beginning of its end, and is not, gets no more than it takes to know.
    assert await said_within(begun - 2, text) == f"<think>a < {END}b</think>12"
    # There is room for what ends it and a token more, and none for its own end.
    longest = begun + 2 + len(ids_of(END, False, ended=False))
    assert (await said_within(begun + 1, text, longest)).startswith(f"<think>a < b<{END}")


async def test_white_space_before_a_thought_does_not_free_it():
    thought = "<think>" + "aba " * 30
    for space in ("\n", " \n" * 9, " \n" * 20, " "):
        found = await said_within(8, space + thought, 199)
        assert found.startswith(f"{space}<think>"), space
        before = found.index(END) - len(space)
        assert 0 < len(ids_of(found[len(space) :][:before], False, ended=False)) <= 8 + len("<think>")
    assert await said_within(8, " \n" * 20 + "12") == " \n" * 20 + "12"
    assert await said_within(8, "<thin air " * 3) == "<thin air " * 3


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("</think>", "<think>a" + END[: END.index("</think>") + 8]),
        ("\n<", "<think>aaba\n<"),
        ("aa", "<think>aaba"),
        ("\n\n3", f"<think>a{END}3"),
        ("\n\na", f"<think>a{END}3333"),
    ],
)
async def test_a_stop_string_in_what_ends_a_thought_ends_the_response(stop: str, said: str):
    """Nothing is sampled behind it, so that a program sees all that was sampled."""
    budget = len(ids_of("<think>a", False, ended=False))
    assert await said_within(budget, "<think>a3333", stop=(stop,)) == said


async def test_each_part_has_noise_of_its_own_and_nothing_else_is_divided():
    eos = TOKENIZERS[True].eos_token_id
    whole = Sampling(60, seed=5, thinking_budget=8)
    model = Chance(0, ids_of("a", ended=False), eos)
    await sample_response(model, [1], whole, RENDERERS[True], OPENED)
    (_, first), (asked, second) = model.asked
    assert (first.max_tokens, first.seed, first.thinking_budget) == (8, 5, None)
    assert second.seed not in (None, 5)
    assert second.max_tokens == 60 - len(asked) + 1, "all of it is within the limit of the turn"
    for other in (
        replace(whole, schema="{}"),
        replace(whole, thinking_budget=None),
        replace(whole, max_tokens=8 + len(ids_of(END, ended=False))),
    ):
        model = Chance(0, ids_of("a", ended=False), eos)
        await sample_response(model, [1], other, RENDERERS[True], OPENED)
        assert [sampling for _, sampling in model.asked] == [replace(other, thinking_budget=None)]
    with pytest.raises(BadRequest, match="presence_penalty and frequency_penalty"):
        await sample_response(model, [1], replace(whole, presence_penalty=1.0), RENDERERS[True], OPENED)


async def test_what_was_put_in_is_context_in_the_trajectory_and_the_model_goes_on_from_it():
    engine = Scripted([ids_of("<think>\nthe aba aa", ended=False), ids_of("12")], finish="length")
    model = Recorder(engine, RENDERERS[True], Sampling(100, thinking_budget=8), 999)
    user: Any = {"role": "user", "content": "go"}
    reply = await model.chat([user])
    ending = ids_of(END, ended=False)
    first, second = engine.said
    assert engine.asked[1] == engine.asked[0] + first.ids + ending
    assert reply.ids == first.ids + ending + second.ids
    assert reply.spoken == "12"
    [trajectory] = model.trajectories()
    begin = trajectory.turns[0]
    assert trajectory.tokens[begin:].tolist() == reply.ids
    wanted = [True] * 8 + [False] * len(ending) + [True] * len(second.ids)
    assert trajectory.loss_mask[begin:].tolist() == wanted
    assert trajectory.responses.tolist() == [False] * begin + [True] * len(reply.ids)
    assert trajectory.versions[begin:].tolist() == [0] * 8 + [-1] * len(ending) + [1] * len(second.ids)
    assert not trajectory.logprobs[~trajectory.loss_mask].any()
    assert np.all(trajectory.logprobs[trajectory.loss_mask] < 0)
    close = ending.index(ids_of("</think>", ended=False)[0]) + 1
    assert trajectory.thoughts == [Thought(8 + close, "budget")]
    assert Trajectory.from_json(trajectory.to_json()).thoughts == trajectory.thoughts
    # Qwen 3 keeps the thought while tools answer, so that the next turn is one of the same trajectory.
    engine.responses.extend([ids_of("<think>\naba\n</think>"), ids_of("1")])
    tool: Any = {"role": "tool", "tool_call_id": "call_0_0", "content": "aba"}
    await model.chat([user, reply.message, tool])
    [trajectory] = model.trajectories()
    assert engine.asked[2][: len(engine.asked[0]) + len(reply.ids)] == engine.asked[0] + reply.ids
    assert [thought and thought.end for thought in trajectory.thoughts] == ["budget", "own"]


async def test_a_response_may_end_within_what_was_put_in_and_the_conversation_goes_on():
    """The program sees all that was sampled, and nothing is sampled that it does not see."""
    thought = ids_of("<think>\nthe aba aa", ended=False)
    engine = Scripted([thought, ids_of("12")], finish="length")
    model = Recorder(engine, RENDERERS[True], Sampling(100, thinking_budget=8), 999)
    user: Any = {"role": "user", "content": "go"}
    reply = await model.chat([user], limits=SamplingLimits(stop=("</think>",)))
    assert (len(engine.asked), reply.finish, reply.spoken) == (1, "stop", "")
    assert reply.text == "<think>\nthe aba aa" + END.removesuffix("\n\n")
    engine.finish = "eos"
    tool: Any = {"role": "tool", "tool_call_id": "call_0_0", "content": "aba"}
    await model.chat([user, reply.message, tool])
    [trajectory] = model.trajectories()
    assert [thought and thought.end for thought in trajectory.thoughts] == ["budget", "own"]
    assert trajectory.sampled == 8 + len(ids_of("12"))
    assert response_lengths(trajectory).tolist() == [8, len(ids_of("12"))]
