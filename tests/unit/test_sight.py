"""Models that see: pictures on their way, in a conversation, and in a row of the learner's."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from seeing import KINDS, configuration, make, noise, sequence
from transformers import AutoConfig, AutoModelForImageTextToText

from areal.agents.interface import BadRequest, Message
from areal.config import LearnerConfig
from areal.errors import UserError
from areal.images import Image, open_png, to_png
from areal.learner.learner import Learner
from areal.learner.model import Policy, load_model
from areal.learner.packed import pack
from areal.learner.sight import positions_of
from areal.model_check.agreement import packed_against_alone
from areal.models import load_tokenizer, resolve_model
from areal.models.sight import Sight, load_sight
from areal.rollout.conversation import Conversation, TurnEnd
from areal.rollout.engine import Completion
from areal.rollout.messages import key, normal
from areal.rollout.rendering import Prompt, Renderer
from areal.runtime.model_checks import check_architecture, check_model
from areal.trajectory import Batch, Episode, Group, Trajectory

CPU = torch.device("cpu")
WIDE, TALL, OTHER = noise(56, 112), noise(140, 56, 1), noise(56, 112, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make("qwen2_5_vl", tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def sight(folder: str) -> Sight:
    found = load_sight(folder)
    assert found is not None
    return found


def sequences(sight: Sight) -> list[Trajectory]:
    """Two that share a prompt, one with its ids and another picture, one of two turns, and one of words."""
    return [
        sequence(sight, [[5, 6], WIDE, [7, 8], [20, 21, 22]], [3]),
        sequence(sight, [[5, 6], WIDE, [7, 8], [30, 31]], [3]),
        sequence(sight, [[5, 6], OTHER, [7, 8], [20, 21, 22]], [3]),
        sequence(sight, [[9], TALL, [8], WIDE, [7], [40, 41], [8], OTHER, [50, 51, 52]], [5, 8]),
        sequence(sight, [[9, 10], [60, 61]], [1]),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_pictures_is_what_transformers_computes_of_each_sequence(kind: str, tmp_path: Path):
    folder = make(kind, tmp_path)
    sight = load_sight(folder)
    assert sight is not None
    assert packed_against_alone(folder, sequences(sight)) < 2e-5


def test_a_picture_that_sequences_share_is_in_the_row_once(sight: Sight):
    members = sequences(sight)
    row = pack(members, CPU, sight=sight)
    assert row.pictures is not None
    assert len(row.pictures.grids) == 1 + 0 + 1 + 3
    assert len(row.tokens) == sum(map(len, members)) - (4 + sight.count(WIDE))
    assert pack(members[4:], CPU, sight=sight).pictures is None
    with pytest.raises(ValueError, match="the model cannot see them"):
        pack(members, CPU)


def test_the_same_ids_with_another_picture_are_another_prompt(folder: str, sight: Sight):
    policy = Policy(load_model(folder)).requires_grad_(False)
    one, _, other, *_ = sequences(sight)
    assert one.tokens.tolist() == other.tokens.tolist()
    row = pack([one, other], CPU, sight=sight)
    assert len(row.tokens) == len(one) + len(other)
    found = policy(row, 1.0).logprobs
    alone = torch.cat([policy(pack([each], CPU, sight=sight), 1.0).logprobs for each in (one, other)])
    torch.testing.assert_close(found, alone, atol=2e-5, rtol=0)
    assert (found[:3] - found[3:]).abs().max() > 0.01


def test_a_placeholder_that_the_policy_sampled_is_a_token_like_others(folder: str, sight: Sight):
    policy = Policy(load_model(folder)).requires_grad_(False)
    parts: list[bytes | list[int]] = [[5], WIDE, [7], [20, sight.token, 21]]
    with_picture = pack([sequence(sight, parts, [3])], CPU, sight=sight)
    assert policy(with_picture, 1.0).logprobs.isfinite().all()
    without = pack([sequence(sight, [[5, 7], [20, sight.token, 21]], [1])], CPU, sight=sight)
    assert policy(without, 1.0).logprobs.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_those_of_transformers(kind: str, tmp_path: Path):
    folder = make(kind, tmp_path)
    sight = load_sight(folder)
    assert sight is not None
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    for one in sequences(sight)[:4]:
        kinds = torch.zeros(1, len(one), dtype=torch.int32)
        for image in one.images:
            kinds[0, image.start : image.start + image.tokens] = 1
        grids = torch.tensor([sight.pixels(image.png).grid for image in one.images])
        ids = torch.from_numpy(one.tokens.astype(np.int64))[None]
        expected, _ = model.model.get_rope_index(ids, kinds, image_grid_thw=grids)
        assert positions_of(len(one), one.images, sight).tolist() == expected[:, 0].tolist()


def test_an_update_moves_the_language_model_and_leaves_the_tower(folder: str, sight: Sight):
    learner = Learner(folder, LearnerConfig(learning_rate=1e-2, warmup_steps=0), "cpu", 1.0, 1)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    one, two, *_ = sequences(sight)
    metrics = learner.update(Batch(0, [Group(0, 0, [Episode([one], 0.0), Episode([two], 1.0)])]))
    assert math.isfinite(metrics["grad_norm"])
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not {name for name in moved if "visual" in name}
    assert {name for name, _ in learner.named_parameters()} >= {"visual.merger.ln_q.weight"}


def test_an_adapter_stays_off_the_tower(folder: str):
    learner = Learner(folder, LearnerConfig(lora_rank=2), "cpu", 1.0, 1)
    adapted = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    assert adapted
    assert not [name for name in adapted if "visual" in name]


def user(*parts: str | bytes) -> Message:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in parts
    ]
    return normal({"role": "user", "content": content})


def renderer(folder: str) -> Renderer:
    tokenizer = load_tokenizer(folder)
    return Renderer(tokenizer, (tokenizer.eos_token_id,), sight=load_sight(folder))


def test_a_conversation_has_a_placeholder_for_each_square_of_a_picture(folder: str, sight: Sight):
    rendered = renderer(folder)
    first = [user("Look: ", WIDE, "How many?")]
    opening = rendered.opening(first)
    assert opening.text.count("<|image_pad|>") == 1
    [image] = opening.images
    assert image.png == WIDE
    assert opening.ids[image.start : image.start + image.tokens] == [sight.token] * sight.count(WIDE)
    assert opening.ids.count(sight.token) == sight.count(WIDE)
    said: Message = {"role": "assistant", "content": "3"}
    history = [*first, said, user(TALL, "And now?")]
    end = rendered.eos_ids[0]
    behind = rendered.continuation(opening.text, "3", end, history, shown=1)
    assert behind is not None
    assert [image.png for image in behind.images] == [TALL]
    spoken = Conversation()
    spoken.append_prompt(opening.ids, opening.images)
    spoken.append_completion(Completion([20, end], [-1.0, -1.0], [0, 0], "eos"), 0)
    spoken.append_prompt(behind.ids, behind.images)
    for image in spoken.images:
        around = spoken.ids[image.start - 1 : image.start + image.tokens + 1]
        assert around[1:-1] == [sight.token] * image.tokens
        assert sight.token not in (around[0], around[-1])
    branch = Conversation(spoken, TurnEnd(2, len(opening.ids) + 2, len(opening.text)))
    assert branch.images == [opening.images[0]]
    assert spoken.trajectory().images == spoken.images


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (37, 91), (56, 56), (480, 640), (900, 1300)])
def test_places_are_counted_without_the_pixels(folder: str, height: int, width: int):
    sight = load_sight(folder)
    assert sight is not None
    png = noise(height, width)
    counted = sight.count(png)
    assert sight.pixels.cache_info().misses == 0
    assert counted == math.prod(sight.pixels(png).grid) // sight.merge**2


def places(prompt: Prompt, token: int) -> list[str]:
    """Return what the placeholders of a prompt are, in order: words, or the name of a picture."""
    names = {WIDE: "wide", TALL: "tall"}
    begun = {image.start: image for image in prompt.images}
    found, at = [], 0
    while at < len(prompt.ids):
        if at in begun:
            found.append(names[begun[at].png])
            assert prompt.ids[at : at + begun[at].tokens] == [token] * begun[at].tokens
        elif prompt.ids[at] == token:
            found.append("words")
        at += begun[at].tokens if at in begun else 1
    return found


def test_a_placeholder_in_words_is_a_token_as_others_are(folder: str, sight: Sight):
    pad, rendered = "<|image_pad|>", renderer(folder)
    for parts, expected in (
        ((pad,), ["words"]),
        ((pad, WIDE), ["words", "wide"]),
        ((WIDE, f"a{pad}{pad}", TALL, pad), ["wide", "words", "words", "tall", "words"]),
        (("image_pad",), []),
    ):
        opening = rendered.opening([user(*parts)])
        assert places(opening, sight.token) == expected
        assert opening.text.count(pad) == len(expected)
    rewritten = [user(WIDE), normal({"role": "assistant", "content": pad}), user(TALL)]
    assert places(rendered.opening(rewritten), sight.token) == ["wide", "words", "tall"]


@pytest.mark.parametrize("said", ["3", "<|image_pad|>", "<|image_pad|><|image_pad|> 3"])
@pytest.mark.parametrize("asked", [(WIDE, "How many?"), ("<|image_pad|>", WIDE), ("How many?",)])
def test_the_next_picture_is_placed_whatever_was_said_before(
    folder: str, sight: Sight, said: str, asked: tuple[str | bytes, ...]
):
    rendered, first = renderer(folder), [user(*asked)]
    opening = rendered.opening(first)
    for new, expected in (
        ((TALL,), ["tall"]),
        (("<|image_pad|>", TALL), ["words", "tall"]),
        ((TALL, "<|image_pad|>", WIDE), ["tall", "words", "wide"]),
        (("And now?",), []),
    ):
        history = [*first, normal({"role": "assistant", "content": said}), user(*new)]
        behind = rendered.continuation(
            opening.text, said, rendered.eos_ids[0], history, shown=len(opening.images)
        )
        assert behind is not None
        assert places(behind, sight.token) == expected


def test_a_model_that_sees_nothing_refuses_pictures():
    tokenizer = load_tokenizer(resolve_model("starter"))
    with pytest.raises(BadRequest, match=r"which the model cannot see; choose one of Qwen2-VL"):
        Renderer(tokenizer, (tokenizer.eos_token_id,), sight=load_sight(resolve_model("starter"))).opening(
            [user(WIDE)]
        )


def test_messages_with_different_pictures_differ():
    assert key(user("a", WIDE)) == key(user("a", WIDE))
    assert key(user("a", WIDE)) != key(user("a", OTHER))
    assert key(user("a", WIDE)) != key(user("a"))
    with pytest.raises(BadRequest, match="role system contains an image"):
        normal({"role": "system", "content": [{"type": "image", "image": WIDE}]})
    for content in (3, [3], [{"type": "audio", "audio": b""}], [{"type": "image", "image": None}]):
        with pytest.raises(BadRequest, match="areal reads nothing else"):
            normal({"role": "user", "content": content})
    with pytest.raises(BadRequest, match="cannot read an image"):
        normal({"role": "user", "content": [{"type": "image", "image": b"GIF?"}]})


def test_a_picture_keeps_each_pixel_as_a_file():
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    png = to_png(array)
    assert np.array_equal(np.asarray(open_png(png)), array)
    assert to_png(png) is png
    assert np.array_equal(np.asarray(open_png(to_png(PIL.Image.fromarray(array)))), array)
    assert np.array_equal(np.asarray(open_png(to_png(array[:, :, 0])))[:, :, 2], array[:, :, 0])
    jpeg = io.BytesIO()
    PIL.Image.fromarray(array).save(jpeg, format="JPEG")
    assert to_png(jpeg.getvalue()).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), "a.png"]
)
def test_what_is_no_picture_is_refused(wrong: object):
    with pytest.raises(UserError, match="an image"):
        to_png(wrong)


def test_a_trajectory_with_pictures_is_kept_as_json(sight: Sight):
    one = sequences(sight)[3]
    again = Trajectory.from_json(json.loads(json.dumps(one.to_json())))
    assert again.images == one.images
    plain = sequences(sight)[4].to_json()
    assert Trajectory.from_json({n: v for n, v in plain.items() if n != "images"}).images == []
    assert len(repr(Image(WIDE, 0, 8))) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_are_checked_as_others_are(kind: str, tmp_path: Path):
    assert check_model(make(kind, tmp_path), training=True) == []


def test_another_way_to_see_is_refused_with_the_reason(tmp_path: Path):
    config = AutoConfig.for_model("llava")
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"areal does not know how .* sees images; choose one of .*Qwen3-VL"):
        check_architecture(str(tmp_path), training=True)


def test_a_model_that_sees_without_an_image_processor_is_refused(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"the image processor of .* does not load \(preprocessor_config.json\)"
    ):
        load_sight(str(configuration("qwen2_5_vl", tmp_path)))
