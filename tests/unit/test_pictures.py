"""Environments that show pictures: from an observation to a trajectory, its record, and the page."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import PIL.Image
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from gymnasium.spaces import Box, Dict
from openai import AsyncOpenAI, BadRequestError
from pages import ROOT
from seeing import make, noise, sequence

from areal.agents.interface import BadRequest
from areal.agents.multi_turn import MultiTurn
from areal.agents.program import Program
from areal.agents.single_turn import SingleTurn
from areal.authoring.check import check_env
from areal.authoring.play import Show, play_person
from areal.config import parse_config
from areal.envs.pictures import content_of, is_readable, kind_of, with_text, words_of
from areal.envs.text import UnicodeText
from areal.envs.words import not_in_words
from areal.errors import EnvironmentFailure, UserError
from areal.images import Png, open_png, to_png
from areal.models import load_tokenizer, resolve_model
from areal.models.sight import load_sight, saved_beside
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.endpoint.serving import ServedSession
from areal.rollout.endpoint.session import Session
from areal.rollout.endpoint.wire import ModelRequest
from areal.rollout.engine import Completion, Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.messages import normal, pictures
from areal.rollout.opening import wrong_messages
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.rollout.worker import RolloutWorker
from areal.runtime.first_look import look_at
from areal.runtime.plan import plan
from areal.trajectory import Episode, Group
from areal.viewer.listing import plain_conversation
from areal.viewer.rollouts import decoder_in, parts_of

sys.path.insert(0, str(ROOT / "examples"))
from count_shapes import CountShapes

BOARD = np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make("qwen2_5_vl", tmp_path_factory.mktemp("seeing"))


class Twice(gymnasium.Env[Any, str]):
    """Shows another board in each of two turns."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.turn = 0
        return {"text": "Look: ", "image": BOARD}, {}

    def step(self, action: str) -> Any:
        self.turn += 1
        return {"image": BOARD[:, ::-1], "text": "And now?"}, 1.0, self.turn == 2, False, {}


class Late(Twice):
    """Shows its first board in a step, as it may declare."""

    def __init__(self, space: Any) -> None:
        self.observation_space = space

    def reset(self, **task: Any) -> Any:
        super().reset(**task)
        return "Look: ", {}


class Recording:
    """Says the same each time; keeps what it is asked."""

    version, busy_seconds = 0, 0.0

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[Any]]] = []

    async def generate(self, ids: list[int], sampling: Sampling, *, images: Any = ()) -> Completion:
        self.asked.append((ids, list(images)))
        return Completion([20, 1], [-0.5, -1.0], [0, 0], "eos")


def worker(folder: str, env: Any, agent: Any, engine: Any) -> RolloutWorker:
    renderer = Renderer(load_tokenizer(folder), (1,), sight=load_sight(folder))
    return RolloutWorker(engine, renderer, agent, EnvironmentPool(env, 2), 200)


async def test_pictures_of_each_turn_get_to_the_engine_and_into_the_trajectory(folder: str):
    engine = Recording()
    episode = await worker(folder, Twice, MultiTurn(), engine).run_episode({"seed": 0}, Sampling(10))
    sight = load_sight(folder)
    assert sight is not None
    [one] = episode.trajectories
    assert episode.reward == 2.0
    assert [len(images) for _, images in engine.asked] == [1, 2]
    ids, images = engine.asked[-1]
    assert images == one.images
    assert ids == one.tokens[: len(ids)].tolist()
    assert [np.array_equal(np.asarray(open_png(image.png)), board) for image, board in
            zip(images, (BOARD, BOARD[:, ::-1]), strict=True)] == [True, True]  # fmt: skip
    for image in images:
        assert set(ids[image.start : image.start + image.tokens]) == {sight.token}
        assert image.tokens == sight.count(image.png)
    assert ids.count(sight.token) == sum(image.tokens for image in images)


async def test_a_policy_that_says_a_placeholder_sees_the_next_picture(folder: str):
    sight = load_sight(folder)
    assert sight is not None

    class Saying(Recording):
        async def generate(self, ids: list[int], sampling: Sampling, *, images: Any = ()) -> Completion:
            self.asked.append((ids, list(images)))
            return Completion([sight.token, 20, 1], [-0.5, -0.5, -1.0], [0, 0, 0], "eos")

    engine = Saying()
    episode = await worker(folder, Twice, MultiTurn(), engine).run_episode({"seed": 0}, Sampling(10))
    assert [len(images) for _, images in engine.asked] == [1, 2]
    [one] = episode.trajectories
    assert one.tokens.tolist().count(sight.token) == 2 + sum(image.tokens for image in one.images)


async def test_an_environment_that_shows_something_else_is_refused(folder: str):
    class Floats(Twice):
        def reset(self, **task: Any) -> Any:
            return {"image": BOARD / 255, "text": ""}, {}

    with pytest.raises(EnvironmentFailure, match="of type dict whose 'image' is of type ndarray of float64"):
        await worker(folder, Floats, SingleTurn(), Recording()).run_episode({"seed": 0}, Sampling(10))


async def test_a_picture_that_cannot_be_shown_is_the_failure_of_its_environment(folder: str):
    class Line(Twice):
        def reset(self, **task: Any) -> Any:
            return np.zeros((1, 300, 3), np.uint8), {}

    with pytest.raises(EnvironmentFailure, match=r"reset in the task .* 300×1 is more than 200 times"):
        await worker(folder, Line, SingleTurn(), Recording()).run_episode({"seed": 0}, Sampling(10))


def test_what_can_be_shown_to_a_model():
    assert is_readable("words")
    assert is_readable(BOARD)
    assert is_readable(PIL.Image.fromarray(BOARD))
    assert is_readable({"image": BOARD, "text": "words"})
    assert not is_readable({"text": "words"}), "a dict without a picture is as it was: no text"
    assert not is_readable({"image": BOARD, "number": 3})
    for other in (None, 3, BOARD[:, :, 0], BOARD.astype(float), [BOARD]):
        assert not is_readable(other)
    [image, text] = content_of({"image": BOARD, "text": "words"})
    assert (image["type"], text) == ("image", {"type": "text", "text": "words"})
    assert content_of("words") == "words"
    assert words_of({"text": "Look: ", "image": BOARD}) == "Look: [image 84×56]"
    assert words_of(content_of({"text": "Look: ", "image": BOARD})) == "Look: [image 84×56]"
    assert with_text("a", "b") == "ab"
    assert words_of(with_text(content_of(BOARD), "b")) == "[image 84×56]b"


def test_what_cannot_be_shown_is_told_its_shape():
    alpha = np.zeros((4, 5, 4), np.uint8)
    for wrong, kind in (
        (BOARD[:, :, 0], "ndarray of uint8 with the shape (56, 84)"),
        (alpha, "ndarray of uint8 with the shape (4, 5, 4)"),
        (
            {"text": "", "image": BOARD / 255},
            "dict whose 'image' is of type ndarray of float64 with the shape ",
        ),
        ({"image": BOARD, "number": 3}, "dict whose 'number' is of type int"),
        ({"number": 3}, "dict"),
        (3, "int"),
    ):
        assert kind_of(wrong).startswith(kind)
        assert f"{kind_of(wrong)}, but a model reads only text" in not_in_words(Twice(), wrong, "")


def test_a_person_is_told_of_pictures():
    class Shows(Twice):
        def __init__(self, last: Any) -> None:
            self.last = last

        def step(self, action: str) -> Any:
            return self.last, 1.0, True, False, {}

    for last, told in (
        (PIL.Image.fromarray(BOARD), "reward: 1\n[image 84×56]\n"),
        (BOARD, "reward: 1\n[image 84×56]\n"),
        ({"text": "Over: ", "image": BOARD}, "reward: 1\nOver: [image 84×56]\n"),
        ("over", "reward: 1\nover\n"),
        ("", "reward: 1\n"),
    ):
        stream = io.StringIO()
        assert play_person(Shows(last), 1, 0, lambda: "go", Show(stream)) == 1.0
        assert stream.getvalue() == "Look: [image 84×56]\n" + told


def test_an_environment_of_pictures_needs_actions_in_words():
    discrete = Twice()
    discrete.action_space = gymnasium.spaces.Discrete(3)
    assert "its actions are Discrete(3)" in not_in_words(discrete, BOARD, "")
    assert not_in_words(CountShapes(), {"image": BOARD, "text": ""}, "") == ""
    assert "of type ndarray" in not_in_words(CountShapes(), BOARD / 255, "")


def test_messages_of_an_environment_may_have_pictures():
    asked = {"role": "user", "content": [{"type": "image", "image": noise(8, 8)}]}
    assert wrong_messages([asked]) == ""
    assert "text or parts" in wrong_messages([{"role": "user", "content": [{"type": "audio"}]}])
    assert "text or parts" in wrong_messages([{"role": "user", "content": 3}])


def test_a_look_tells_whether_pictures_are_shown():
    assert look_at(CountShapes(), "count", 0, True, 10).pictures
    for space, shown in (
        (Box(0, 255, BOARD.shape, np.uint8), True),
        (Dict({"image": Box(0, 255, BOARD.shape, np.uint8), "text": UnicodeText(9)}), True),
        (Box(0, 1, BOARD.shape, np.float32), False),
        (Box(0, 255, BOARD.shape[:2], np.uint8), False),
        (Dict({"text": UnicodeText(9)}), False),
        (UnicodeText(9), False),
    ):
        assert look_at(Late(space), "late", 0, True, 10).pictures == shown
    assert not look_at(gymnasium.make("math-v1"), "math-v1", 0, True, 10).pictures


def test_pictures_are_refused_before_the_start_where_they_are_lost(folder: str):
    shapes = str(ROOT / "examples/count_shapes.py:CountShapes")
    with pytest.raises(
        UserError, match=r"shows images .*, and the model starter cannot see them; choose one of Qwen2-VL"
    ):
        plan(parse_config({"env": shapes}))
    checked = plan(parse_config({"env": shapes, "model": folder, "rollout": {"max_model_len": 128}}))
    assert isinstance(checked.agent, SingleTurn)
    words = {"agent": "program", "agent_options": {"command": "cat"}}
    with pytest.raises(UserError, match="which a program does not receive"):
        plan(parse_config({"env": shapes, "model": folder, "rollout": {"max_model_len": 128}, **words}))
    assert isinstance(plan(parse_config({"env": "math-v1", **words})).agent, Program)


@pytest.mark.parametrize(
    "begins",
    [
        (np.zeros((1, 300, 3), np.uint8), {}),
        ("", {"messages": [{"role": "user", "content": [{"type": "image", "image": b"?"}]}]}),
    ],
)
def test_a_picture_that_cannot_be_shown_is_found_before_the_start(begins: Any):
    class Made(Twice):
        def reset(self, **task: Any) -> Any:
            return begins

    with pytest.raises(EnvironmentFailure, match=r"environment 'made': reset in the task .* an image"):
        look_at(Made(), "made", 0, True, 10)


async def test_a_picture_that_was_not_declared_ends_the_run_of_a_model_that_sees_none(folder: str):
    class Opening(Late):
        def reset(self, **task: Any) -> Any:
            super().reset(**task)
            shown = {"role": "user", "content": [{"type": "image", "image": noise(56, 56)}]}
            return "Look: ", {"messages": [shown]}

    for kind, asked in ((Late, 1), (Opening, 0), (Twice, 0)):
        engine = Recording()
        made = partial(kind, UnicodeText(9)) if issubclass(kind, Late) else kind
        renderer = Renderer(load_tokenizer(resolve_model("starter")), (1,))
        blind = RolloutWorker(engine, renderer, MultiTurn(), EnvironmentPool(made, 2, name="late"), 200)
        with pytest.raises(
            UserError, match=r"environment 'late' shows an image .*observation_space"
        ) as refused:
            await blind.run_episode({"seed": 0}, Sampling(10))
        assert "\n" not in str(refused.value)
        assert len(engine.asked) == asked, "what comes before the picture is text"
        seeing = worker(folder, made, MultiTurn(), Recording())
        assert (await seeing.run_episode({"seed": 0}, Sampling(10))).reward == 2.0


async def test_a_program_whose_task_is_an_undeclared_picture_ends_in_one_line(folder: str):
    with pytest.raises(UserError, match="a program receives only text"):
        await worker(folder, Twice, Program(command="cat"), Recording()).run_episode(
            {"seed": 0}, Sampling(10)
        )


def test_the_example_passes_the_checks_of_environments():
    findings = list(check_env(CountShapes))
    assert [finding for finding in findings if finding.verdict == "failed"] == []


def test_a_group_keeps_a_picture_once(folder: str):
    sight = load_sight(folder)
    assert sight is not None
    png, other = noise(56, 56), noise(56, 56, 1)
    said = [sequence(sight, [[5], shown, [7], [20 + n]], [3]) for n, shown in enumerate((png, png, other))]
    group = Group(0, 0, [Episode([one], 1.0) for one in said])
    line = json.dumps(group.to_json())
    assert len(json.loads(line)["pictures"]) == 2
    again = Group.from_json(json.loads(line))
    assert [one.images for one in again.trajectories] == [one.images for one in said]
    data = json.loads(line)
    assert Group.from_json(data).trajectories[0].images == Group.from_json(data).trajectories[0].images
    assert "pictures" not in Group(0, 0, [Episode([sequence(sight, [[5], [6]], [1])], 1.0)]).to_json()


def test_the_page_and_the_terminal_name_a_picture(folder: str):
    sight = load_sight(folder)
    assert sight is not None
    one = sequence(
        sight, [[5], noise(56, 112), [7, 8], [20], [9], noise(84, 56), [10], [21, sight.token]], [3, 7]
    )
    decode = decoder_in(folder)
    parts = parts_of(one, decode)
    assert [part.text.count("[image ") for part in parts] == [1, 0, 1, 0]
    assert "[image 112×56]" in parts[0].text
    assert "image_pad" not in parts[0].text + parts[2].text
    assert "image_pad" in parts[3].text, "the policy wrote that"
    texts = plain_conversation(one, decode)["texts"]
    assert len(texts) == len(one)
    assert texts[1] == "[image 112×56]"
    assert set(texts[2 : 1 + sight.count(noise(56, 112))]) == {""}


def test_what_is_saved_beside_the_weights_lets_a_model_see_again(folder: str, tmp_path: Path):
    saved_beside(folder).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((Path(folder) / "config.json").read_text())
    again, before = load_sight(str(tmp_path)), load_sight(folder)
    assert again is not None
    assert before is not None
    found, expected = again.pixels(noise(90, 70)), before.pixels(noise(90, 70))
    assert found.grid == expected.grid
    assert np.array_equal(found.values, expected.values)


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[EndpointServer]:
    made = EndpointServer(lambda ids: [str(i) for i in ids], 1.0)
    yield made
    await made.close()


def recorder(folder: str, engine: Any, server: EndpointServer) -> Recorder:
    renderer = Renderer(load_tokenizer(folder), (1,), sight=load_sight(folder))
    return Recorder(engine, renderer, Sampling(8), 200, server)


async def test_programs_show_pictures_by_each_protocol(folder: str, server: EndpointServer):
    png, engine = noise(56, 84), Recording()
    encoded = base64.b64encode(png).decode()
    url = f"data:image/png;base64,{encoded}"
    source: Any = {"type": "base64", "media_type": "image/png", "data": encoded}
    asked: Any = {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "How many?"}
    told: Any = {"type": "input_image", "image_url": url}, {"type": "input_text", "text": "How many?"}
    block: Any = {"type": "image", "source": source}, {"type": "text", "text": "How many?"}
    said = recorder(folder, engine, server)
    async with said.endpoint(10) as at:
        openai = AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)
        await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": asked}])
        await openai.responses.create(model="m", input=[{"role": "user", "content": told}])
        anthropic = AsyncAnthropic(base_url=at.base_url.removesuffix("/v1"), api_key=at.api_key)
        shown: Any = [{"role": "user", "content": block}]
        first = await anthropic.messages.create(model="m", max_tokens=8, messages=shown)
        again = [*shown, {"role": "assistant", "content": first.content[0].text}, *shown]
        await anthropic.messages.create(model="m", max_tokens=8, messages=again)
    assert [[image.png for image in images] for _, images in engine.asked] == [[png]] * 3 + [[png, png]]
    assert len({tuple(ids) for ids, _ in engine.asked[:3]}) == 1
    one = max(said.trajectories(), key=lambda each: len(each.turns))
    assert len(one.turns) == len(one.images) == 2


@pytest.mark.parametrize(("body", "elsewhere"), [(b'{"type": "input_image"}', True), (b"{}", False)])
async def test_a_call_with_pictures_is_read_on_a_thread(body: bytes, elsewhere: bool):
    read: list[int] = []

    def parse(body: bytes, reading: Any) -> ModelRequest:
        read.append(threading.get_ident())
        return ModelRequest("m", [])

    wire: Any = SimpleNamespace(parse=parse)
    model: Any = SimpleNamespace(count_tokens=lambda messages, tools: 0)
    for session in (Session(model, list, 1.0, 9), ServedSession(model, list, 1.0, 9)):
        await session.read(wire, body)
        await session.count(parse, body)
    assert [thread != threading.get_ident() for thread in read] == [elsewhere] * 4


class Canvas:
    """What an agent of one's own may show: it is asked for its pixels, and knows by which thread."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self.threads.append(threading.get_ident())
        return BOARD


async def test_pictures_of_an_agent_are_read_on_a_thread(folder: str, server: EndpointServer):
    engine, canvas, png = Recording(), Canvas(), noise(56, 84)
    said = recorder(folder, engine, server)
    for picture in (canvas, png):
        await said.chat([{"role": "user", "content": [{"type": "image", "image": picture}]}])
    assert threading.get_ident() not in canvas.threads
    assert len(canvas.threads) == 1
    assert [[image.png for image in images] for _, images in engine.asked] == [[to_png(BOARD)], [png]]
    with pytest.raises(BadRequest, match="an image must be an array"):
        await said.chat([{"role": "user", "content": [{"type": "image", "image": BOARD / 2}]}])


async def test_pictures_of_an_environment_become_files_once():
    class Asks(Twice):
        def reset(self, **task: Any) -> Any:
            content = [{"type": "image", "image": BOARD}, {"type": "text", "text": "What is it?"}]
            return "", {"messages": [{"role": "user", "content": content}]}

    class Wrong(Twice):
        def reset(self, **task: Any) -> Any:
            return "", {"messages": [{"role": "user", "content": [{"type": "image", "image": BOARD / 2}]}]}

    for kind, wrong in ((Asks, False), (Wrong, True)):
        pool = EnvironmentPool(kind, 1)
        async with pool.lend() as env:
            if wrong:
                with pytest.raises(
                    EnvironmentFailure, match=r"returned info\['messages'\]: an image must be an array"
                ):
                    await pool.reset(env, {"seed": 0})
                continue
            _, info = await pool.reset(env, {"seed": 0})
            [message] = info["messages"]
            assert isinstance(message["content"][0]["image"], Png)
            assert pictures([normal(message)])[0] is message["content"][0]["image"]
        await pool.close()


def data_url(file: bytes) -> dict[str, Any]:
    """Return a file as a part of a chat's message."""
    url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


async def test_pictures_that_a_program_cannot_show_are_refused_in_one_line(
    folder: str, server: EndpointServer
):
    png = base64.b64encode(noise(8, 8)).decode()
    url = {"url": f"data:image/png;base64,{png}"}
    written = io.BytesIO()
    PIL.Image.new("RGB", (1, 300)).save(written, format="PNG")
    long = written.getvalue()
    for role, part, complaint in (
        ("user", {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, "does not fetch URLs"),
        ("user", {"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}, "messages.0"),
        (
            "user",
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            "cannot read an image",
        ),
        ("user", data_url(noise(56, 56)[:200]), "messages.0: cannot read an image"),
        ("user", data_url(long), "messages.0: an image of 1×300 is more than 200 times"),
        ("user", {"type": "input_audio", "input_audio": {}}, "reads text, and images in user and tool"),
        ("system", {"type": "image_url", "image_url": url}, "reads text, and images in user and tool"),
    ):
        async with recorder(folder, Recording(), server).endpoint(10) as at:
            openai = AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)
            messages: Any = [{"role": role, "content": [part]}, {"role": "user", "content": "Go."}]
            with pytest.raises(BadRequestError, match=complaint):
                await openai.chat.completions.create(model="m", messages=messages)
    async with recorder(resolve_model("starter"), Recording(), server).endpoint(10) as at:
        openai = AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)
        shown: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
        with pytest.raises(BadRequestError, match="which the model cannot see"):
            await openai.chat.completions.create(model="m", messages=shown)
