"""The starter model: its tokenizer is exact, its template only grows, it is right in about a third."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.envs import programs
from areal.envs.arithmetic import problem
from areal.envs.code import fenced, program_prompt
from areal.envs.code_blocks import code_block
from areal.envs.math import arithmetic_prompt
from areal.models import resolve_model
from areal.rewards.answers import boxed_answer

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
    assert all(0 <= token < len(TOKENIZER) for token in ids)


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


def test_arithmetic_leaves_room_to_learn(model: torch.nn.Module):
    """At the default difficulty, plain samples at temperature 1 are right in 20 to 60%."""
    drawn = [problem("test", 3, index) for index in range(192)]
    answers = samples(model, [arithmetic_prompt(p.expression) for p in drawn])
    right = [boxed_answer(text) == str(p.answer) for p, text in zip(drawn, answers, strict=True)]
    assert 0.2 <= sum(right) / len(right) <= 0.6
    assert sum(text != "" for text in answers) >= 0.95 * len(answers), "answers end by the end token"


def test_programs_leave_room_to_learn(model: torch.nn.Module):
    """Likewise 10 to 50% of the programs, by their text; most others have a slip that it has been taught."""
    drawn = [programs.problem("test", programs.DEFAULT_DIFFICULTY, index) for index in range(128)]
    answers = samples(model, [program_prompt(p.text) for p in drawn])
    right = [text == fenced(programs.program(p.right)) for p, text in zip(drawn, answers, strict=True)]
    assert 0.1 <= sum(right) / len(right) <= 0.5
    assert sum(code_block(text) is not None for text in answers) >= 0.9 * len(answers)


def samples(model: torch.nn.Module, questions: list[str]) -> list[str]:
    """Return an answer to each question at temperature 1; an empty one if it does not end in 64 tokens."""
    prompts = [rendered([("user", question)], add_generation_prompt=True) for question in questions]
    inputs = TOKENIZER(prompts, return_tensors="pt", padding=True)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    output = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)
    torch.set_rng_state(state)
    texts = [TOKENIZER.decode(ids) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]
    return [text.partition(TOKENIZER.eos_token)[0] if TOKENIZER.eos_token in text else "" for text in texts]
