"""The starter model: its tokenizer is exact, its template only grows, it is right in about a third."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from areal.envs.arithmetic import problem
from areal.envs.math import arithmetic_prompt
from areal.models import resolve_model

FOLDER = Path(resolve_model("starter"))
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)
# Lone surrogates are no text: no encoding carries them.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), TEXT), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def rendered(turns: list[tuple[str, str]], **options: bool) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return TOKENIZER.apply_chat_template(messages, tokenize=False, **options)


@given(TEXT)
def test_any_text_survives(text: str):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= token < 384 for token in ids)


def test_special_tokens_and_spaces_survive():
    text = "  <|user|> a , b . <|end|>\n\n\t\r\n \x00 don 't <|pad|>"
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.integers())
def test_each_digit_is_a_token(number: int):
    tokens = TOKENIZER.tokenize(f"= {number},{number}")
    assert [t for t in tokens if any(c.isdigit() for c in t)] == [
        c for c in f"{number}{number}" if c.isdigit()
    ]


@given(TURNS)
def test_appending_turns_rewrites_nothing(turns: list[tuple[str, str]]):
    whole, whole_ids = rendered(turns), TOKENIZER.encode(rendered(turns))
    for n in range(1, len(turns)):
        shorter = rendered(turns[:n])
        assert whole.startswith(shorter)
        ids = TOKENIZER.encode(shorter)
        assert whole_ids[: len(ids)] == ids
        if turns[n][0] == "assistant":
            assert whole.startswith(rendered(turns[:n], add_generation_prompt=True))


def test_the_assistants_turn_ends_with_eos():
    prompt = rendered([("user", "x")], add_generation_prompt=True)
    assert rendered([("user", "x"), ("assistant", "y")]) == prompt + "y" + TOKENIZER.eos_token + "\n"
    assert TOKENIZER.encode(TOKENIZER.eos_token) == [TOKENIZER.eos_token_id]


def test_prompt_is_short():
    for index in range(50):
        text = arithmetic_prompt(problem("train", 3, index).expression)
        assert len(TOKENIZER.encode(rendered([("user", text)], add_generation_prompt=True))) <= 24


def test_model_is_small_and_tied(model: torch.nn.Module):
    assert 800_000 <= sum(p.numel() for p in model.parameters()) <= 1_100_000
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == len(TOKENIZER)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == TOKENIZER.eos_token_id


def test_accuracy_leaves_room_to_learn(model: torch.nn.Module):
    """At the default difficulty, plain samples at temperature 1 are right in 20 to 60%."""
    accuracy, ended = sample_accuracy(model, TOKENIZER, count=256)
    assert 0.2 <= accuracy <= 0.6
    assert ended >= 0.95, "answers end by the end token"


def sample_accuracy(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, count: int
) -> tuple[float, float]:
    problems = [problem("test", 3, index) for index in range(count)]
    prompts = [
        rendered([("user", arithmetic_prompt(p.expression))], add_generation_prompt=True) for p in problems
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    output = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)
    torch.set_rng_state(state)
    right = ended = 0
    for p, ids in zip(problems, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        text, end, _ = tokenizer.decode(ids).partition(tokenizer.eos_token)
        boxes = re.findall(r"\\boxed\{(-?\d+)\}", text)
        ended += bool(end)
        right += bool(end) and boxes[-1:] == [str(p.answer)]
    return right / count, ended / count
