"""Games with the model on all sides, or against opponents; TextArena's real games, where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat import Scripted, renderer, tokenizer

from areal.agents.multi_turn import MultiTurn
from areal.envs.games import GameEnv
from areal.envs.opponents import find_opponent
from areal.envs.seeds import HELD_OUT
from areal.errors import UserError
from areal.registry import make_env
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.worker import RolloutWorker


class Count:
    """Players say numbers in turn; who reaches ten wins one from each of the others. Each move costs 0.1."""

    def __init__(self, players: int = 2, lists: bool = True) -> None:
        self.players = [f"p{number}" for number in range(players)]
        self.ended = self.cut = False
        self.lists = lists

    @property
    def player(self) -> str:
        return self.players[self.turn]

    def begin(self, seed: int) -> None:
        self.seed, self.total, self.turn, self.ended, self.cut = seed, 0, 0, False, False
        self.heard: dict[str, list[str]] = {name: [] for name in self.players}
        self.due = dict.fromkeys(self.players, 0.0)

    def told(self) -> str:
        found, self.heard[self.player] = self.heard[self.player], []
        return " ".join([*found, f"{self.total}"])

    def moves(self) -> list[str] | None:
        return ["1", "2"] if self.lists else None

    def act(self, said: str) -> None:
        mover = self.player
        self.due[mover] -= 0.1
        self.total += int(said)
        for name in self.players:
            self.heard[name].append(f"{mover}:{said}")
        if self.total >= 10:
            self.ended = True
            for name in self.players:
                self.due[name] += len(self.players) - 1.0 if name == mover else -1.0
        self.cut = self.total < 0
        self.turn = (self.turn + 1) % len(self.players)

    def earned(self) -> dict[str, float]:
        found, self.due = self.due, dict.fromkeys(self.players, 0.0)
        return found


def twos(messages: Any, moves: Any, rng: Any) -> str:
    """An opponent for the tests: says 2, and checks what it is given."""
    assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    assert moves == ["1", "2"]
    return "2"


TWOS = f"{__file__}:twos"


def test_the_model_on_all_sides():
    env = GameEnv(Count(3))
    assert env.reset(seed=4) == ("0", {"player": "p0"})
    steps = [env.step(said) for said in ("3", "2", "1", "4")]
    assert [step[0] for step in steps[:3]] == ["p0:3 3", "p0:3 p1:2 5", "p0:3 p1:2 p2:1 6"]
    assert [step[4]["player"] for step in steps] == ["p1", "p2", "p0", "p1"]
    assert steps[0][4]["rewards"] == {"p0": -0.1, "p1": 0.0, "p2": 0.0}
    assert steps[3][4]["rewards"] == pytest.approx({"p0": 1.9, "p1": -1.0, "p2": -1.0})
    for _, reward, _, _, info in steps:
        assert reward == pytest.approx(sum(info["rewards"].values()))
    assert [step[2] for step in steps] == [False, False, False, True]


def test_a_game_for_one_player_has_no_players():
    env = GameEnv(Count(1), test_opponent="random")
    for seed in (0, HELD_OUT):
        assert env.reset(seed=seed) == ("0", {})
        assert env.step("4")[1:] == (-0.1, False, False, {"reward_parts": {"game": -0.1}})


def test_a_limit_is_no_end():
    env = GameEnv(Count())
    env.reset(seed=1)
    assert env.step("-1")[2:4] == (False, True)


@pytest.mark.parametrize("players", [2, 3])
def test_held_out_games_are_played_from_each_side(players: int):
    env = GameEnv(Count(players), test_opponent=TWOS)
    sides = []
    for number in range(2 * players):
        told, info = env.reset(seed=HELD_OUT + number)
        sides.append(info["player"])
        before = [f"p{k}:2" for k in range(int(info["player"][1]))]
        assert told == " ".join([*before, str(2 * len(before))])
        step = env.step("1")
        assert set(step[4]["rewards"]) == {info["player"]}, "the opponents' rewards are nobody's"
        assert step[4]["player"] == info["player"]
    assert sorted(sides) == sorted(f"p{k}" for k in range(players) for _ in range(2))
    # In training the model plays them all.
    assert env.reset(seed=HELD_OUT - 1)[1] == {"player": "p0"}
    assert env.step("1")[4]["player"] == "p1"


def test_an_opponent_in_training_is_one_in_evaluation_too():
    env = GameEnv(Count(), opponent=TWOS)
    for seed in (0, 1, HELD_OUT):
        _, info = env.reset(seed=seed)
        assert info["player"] == f"p{seed % 2}"
        assert env.step("1")[4]["player"] == info["player"]
    # The opponent ends the game: what the model earned by that is its own.
    env.reset(seed=0)
    assert [env.step("1")[1] for _ in range(3)] == [-0.1, -0.1, -0.1]
    _, reward, ended, _, info = env.step("0")
    assert (reward, ended, info["rewards"]) == (-1.1, True, {"p0": -1.1})


def test_a_random_opponent_follows_from_the_seed():
    def moves(seed: int) -> list[Any]:
        env = GameEnv(Count(), opponent="random")
        return [env.reset(seed=seed), *[env.step("0") for _ in range(4)]]

    assert moves(1) == moves(1)
    assert len({str(moves(seed)) for seed in range(1, 20, 2)}) > 1


def test_opponents_that_cannot_play(tmp_path: Path):
    env = GameEnv(Count(lists=False))
    env.reset(seed=1)  # in training nobody asks for moves
    with pytest.raises(
        UserError, match=r"list of moves, which this game does not give; set env_options\.test_opponent"
    ):
        env.reset(seed=HELD_OUT + 1)
    for name, wrong in (
        ("randon", "'randon' is unknown; give self, random, path/to/file.py:function or URL#MODEL"),
        ("http://127.0.0.1:9", "does not name a model"),
        (f"{__file__}:TWOS", "is not a function"),
        (f"{__file__}:nobody", "nobody"),
    ):
        with pytest.raises(UserError, match=wrong):
            find_opponent(name)
    silent = GameEnv(Count(), opponent=f"{__file__}:silent")
    with pytest.raises(TypeError, match="returned a NoneType; return its move as text"):
        silent.reset(seed=1)


def silent(messages: Any, moves: Any, rng: Any) -> None:
    """No move."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any], list[int]]]:
    """An endpoint that says 2 after a thought; its URL, what it was asked, and the next statuses."""
    asked: list[Any] = []
    status: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            said = {"choices": [{"message": {"content": "<think>one?</think>\n 2"}}]}
            self.send_response(status.pop() if status else 200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: Any) -> None: ...

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}/v1#m", asked, status
    serving.shutdown()
    serving.server_close()


def test_an_opponent_behind_an_endpoint(server: Any):
    url, asked, status = server
    env = GameEnv(Count(), opponent=url)
    assert env.reset(seed=1)[0] == "p0:2 2"
    assert env.step("1")[0] == "p1:1 p0:2 5"
    assert [path for path, _ in asked] == ["/v1/chat/completions"] * 2
    assert asked[1][1]["model"] == "m"
    assert [m["content"] for m in asked[1][1]["messages"]] == ["0", "2", "p0:2 p1:1 3"]
    status.append(400)
    with pytest.raises(UserError, match=r"the opponent at .* refused: 400"):
        env.step("1")
    status.append(503)
    with pytest.raises(Exception, match="503"):  # which is an episode to be run again
        env.reset(seed=1)


def test_textarena_s_games_for_several_players():
    pytest.importorskip("textarena", reason="textarena is not installed")
    env = make_env("textarena-v1", game="KuhnPoker-v0")
    told, info = env.reset(seed=3)
    cards = {info["player"]: told.split("Your card is: ")[1][:3]}
    while len(cards) == 1:
        told, _, _, _, info = env.step("[check]")
        cards.setdefault(info["player"], told.split("Your card is: ")[1][:3])
    assert sorted(cards) == ["Player 0", "Player 1"]
    assert len(set(cards.values())) == 2, "each is told its own card"
    over = False
    while not over:
        move = env.unwrapped._game.moves()[0]
        told, reward, over, _, info = env.step(move)
    assert sorted(info["rewards"].values()) in ([-1.0, 1.0], [0.0, 0.0])
    assert reward == 0.0
    assert make_env("textarena-v1", game="Golf-v0", players=3).reset(seed=0)[1] == {"player": "Player 0"}
    with pytest.raises(UserError, match="'TicTacToe-v0' is not a game for 3 players"):
        make_env("textarena-v1", game="TicTacToe-v0", players=3)
    with pytest.raises(UserError, match="'TicTacToe-v0' is not a game for 1 player:"):
        make_env("textarena-v1", game="TicTacToe-v0", players=1)


def test_textarena_s_invalid_moves_are_the_mover_s():
    pytest.importorskip("textarena", reason="textarena is not installed")
    env = make_env("textarena-v1", game="TicTacToe-v0")
    env.reset(seed=0)
    env.step("[4]")
    told, _, over, _, info = env.step("I resign.")
    assert (over, info["player"]) == (False, "Player 1")
    assert "invalid move" in told
    _, _, over, _, info = env.step("")
    assert over
    assert info["rewards"] == {"Player 0": 1.0, "Player 1": -1.0}


def test_textarena_against_a_random_opponent():
    pytest.importorskip("textarena", reason="textarena is not installed")
    env = make_env("textarena-v1", game="TicTacToe-v0")
    assert env.reset(seed=HELD_OUT)[1] == {"player": "Player 0"}
    assert env.reset(seed=HELD_OUT + 1)[1] == {"player": "Player 1"}
    over = False
    while not over:
        *_, over, _, info = env.step(env.unwrapped._game.moves()[0])
    assert list(info["rewards"]) == ["Player 1"]
    listless = make_env("textarena-v1", game="Nim-v0")
    with pytest.raises(UserError, match="needs the list of moves"):
        listless.reset(seed=HELD_OUT + 1)


def test_a_whole_game_of_textarena_in_a_process_of_its_own():
    """As in a run, but for the engine: it is told what to say."""
    pytest.importorskip("textarena", reason="textarena is not installed")
    made = tokenizer("qwen2.5")
    said = ["[0]", "[3]", "[1]", "[4]", "[2]"]
    engine: Any = Scripted([[*made.encode(text), made.eos_token_id] for text in said])

    async def play() -> Any:
        pool = EnvironmentPool(lambda: make_env("textarena-v1", game="TicTacToe-v0"), 1)
        worker = RolloutWorker(engine, renderer("qwen2.5"), MultiTurn(), pool, 9000)
        episode = await worker.run_episode({"seed": 0}, Sampling(100))
        await pool.close()
        return episode

    episode = asyncio.run(play())
    assert episode.players == {"Player 0": 1.0, "Player 1": -1.0}
    assert [(t.player, t.calls) for t in episode.trajectories] == [
        ("Player 0", [0, 2, 4]),
        ("Player 1", [1, 3]),
    ]
    for trajectory in episode.trajectories:
        text = made.decode(trajectory.tokens)
        assert f"You are {trajectory.player} " in text
        assert np.isfinite(trajectory.logprobs).all()


@pytest.mark.skipif(importlib.util.find_spec("textarena") is not None, reason="textarena is installed")
def test_without_textarena():
    with pytest.raises(
        UserError, match=r"requires TextArena; install it with pip install 'areal-gym.textarena.'"
    ):
        make_env("textarena-v1")
