"""Tokens in, tokens out: what is trained on is what was sampled, turn after turn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from areal.models import load_tokenizer, resolve_model
from areal.rollout.conversation import Conversation, Renderer, eos_ids
from areal.rollout.engine import Completion

TOKENIZER = load_tokenizer(resolve_model("starter"))
END = TOKENIZER.eos_token_id
RENDERER = Renderer(TOKENIZER, eos_ids(TOKENIZER))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SAMPLED = st.lists(st.integers(6, 383), min_size=1, max_size=12)


def completion(ids: list[int], version: int) -> Completion:
    return Completion(ids, [-0.5 * (i + 1) for i in range(len(ids))], [version] * len(ids), "eos")


@settings(max_examples=200, deadline=None)
@given(TEXT, st.lists(st.tuples(SAMPLED, st.booleans(), TEXT), min_size=1, max_size=4))
def test_sampled_ids_are_kept_and_nothing_else_is_marked(
    opening: str, turns: list[tuple[list[int], bool, str]]
):
    talk = Conversation()
    talk.say(RENDERER.opening([{"role": "user", "content": opening}]))
    sampled: list[int] = []
    for version, (ids, ended, observation) in enumerate(turns):
        said = [*ids, END] if ended else ids
        before = list(talk.ids)
        talk.hear(completion(said, version))
        sampled += said
        talk.say(RENDERER.continuation(observation, talk.ids[-1]))
        assert talk.ids[: len(before)] == before, "a conversation only grows"
    arrays = talk.arrays()
    assert arrays["tokens"][arrays["loss_mask"]].tolist() == sampled
    assert (arrays["versions"][~arrays["loss_mask"]] == -1).all()
    assert (arrays["logprobs"][~arrays["loss_mask"]] == 0).all()
    assert len(talk.turns) == len(turns)
    assert all(arrays["loss_mask"][t] and not arrays["loss_mask"][t - 1] for t in talk.turns)


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_a_conversation_is_what_the_template_renders(question: str, answer: str, observation: str):
    """Where the model ends its turn and its ids are those of its text, the whole is the template's own."""
    talk = Conversation()
    talk.say(RENDERER.opening([{"role": "user", "content": question}]))
    talk.hear(completion([*TOKENIZER.encode(answer), END], 0))
    talk.say(RENDERER.continuation(observation, END))
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": observation},
    ]
    whole = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert talk.ids == TOKENIZER.encode(whole)


def test_a_turn_that_was_cut_off_is_ended_for_the_model():
    cut = RENDERER.continuation("more", last_token=20)
    whole = RENDERER.continuation("more", last_token=END)
    assert cut == [END, *whole]
