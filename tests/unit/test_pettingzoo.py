"""pettingzoo-v1: games of PettingZoo's form, its own where it is installed, and the example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Space

from areal.envs.seeds import HELD_OUT
from areal.errors import EnvironmentFailure, UserError
from areal.registry import make_env

NIM = str(Path(__file__).parents[2] / "examples" / "nim.py")


class Taking:
    """Players take numbers, each once, in the order a, b, c. Who takes 3 is out; who takes 4 wins.

    As in PettingZoo's own base class, who is out is asked next, for None, and then leaves.
    """

    possible_agents = ["a", "b", "c"]  # noqa: RUF012
    metadata = {"isolation": "process"}  # noqa: RUF012
    mask_in_info = False
    leaves = True
    actions: Space[Any] = Discrete(5)

    def action_space(self, agent: str) -> Space[Any]:
        return self.actions

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents = list(self.possible_agents)
        self.agent_selection = "a"
        self.free = np.ones(5, np.int8)
        self.out: dict[str, tuple[bool, bool]] = dict.fromkeys(self.agents, (False, False))
        self.earned = dict.fromkeys(self.agents, 0.0)

    def last(self, observe: bool = True) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        agent = self.agent_selection
        seen: Any = {"observation": f"free for {agent}", "action_mask": self.free}
        info = {}
        if self.mask_in_info:
            seen, info = seen["observation"], {"action_mask": self.free}
        return seen, self.earned[agent], *self.out[agent], info

    def step(self, action: int | None) -> None:
        mover = self.agent_selection
        if action is None:
            if self.leaves:
                self.agents.remove(mover)
            dead = [agent for agent in self.agents if any(self.out[agent])]
            self.agent_selection = (dead or [self.following])[0]
            return
        assert self.free[action]
        self.free[action] = 0
        self.earned[mover] = 0.0
        order = self.agents[self.agents.index(mover) + 1 :] + self.agents
        self.following = self.agent_selection = order[0]
        if action == 3:
            self.out[mover], self.earned[mover] = (True, False), -0.5
            self.agent_selection = mover
        if action == 4 or not self.free.any():
            for agent in self.agents:
                self.out[agent] = (action == 4, action != 4)
                self.earned[agent] += 1.0 if agent == mover else -1.0
            self.agent_selection = self.agents[0]


class Masked(Taking):
    mask_in_info = True


class Lingers(Taking):
    leaves = False


class Boxes(Taking):
    actions = Box(0, 1)


class Pays(Taking):
    """As PettingZoo's base class keeps rewards: each move earns its number, and costs the others a half."""

    rewards: Any = None

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        super().reset(seed)
        self.rewards = dict.fromkeys(self.agents, 0.0)

    def step(self, action: int | None) -> None:
        mover = self.agent_selection
        super().step(action)
        if action is None:
            del self.rewards[mover]
            return
        self.rewards = dict.fromkeys(self.agents, -0.5) | {mover: float(action)}
        for agent, reward in self.rewards.items():
            self.earned[agent] += reward


class Rounds(Pays):
    """As ``parallel_to_aec``: what a round has earned is told, and told on until the next round is over."""

    def step(self, action: int | None) -> None:
        mover, told = self.agent_selection, dict(self.earned)
        Taking.step(self, action)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.earned = told
        if mover == "c":
            self.rewards = {"a": 1.0, "b": 2.0, "c": 3.0}
            self.earned = dict(self.rewards)


class Prices(Taking):
    rewards = {"win": 1.0, "loss": -1.0}  # noqa: RUF012


def backwards(observation: Any, game: Any) -> str:
    """What an observation means, for the tests."""
    return f"{game.agent_selection} has {int(sum(observation['action_mask']))}"


def wordless(observation: Any, game: Any) -> Any:
    """No text."""
    return 3


def play(env: Any, *said: str) -> list[tuple[Any, ...]]:
    """Return what came of some moves."""
    return [env.step(each) for each in said]


@pytest.mark.parametrize("game", ["Taking", "Masked"])
def test_players_leave_and_what_they_earned_is_theirs(game: str):
    env = make_env("pettingzoo-v1", env=f"{__file__}:{game}")
    assert env.metadata["isolation"] == "process"
    told, info = env.reset(seed=1)
    ask = "Put one of these in \\boxed{}:"
    assert (told, info) == (
        f"Play this game to win.\nYou are a.\nfree for a\n{ask} 0, 1, 2, 3, 4.",
        {"player": "a"},
    )
    steps = play(env, r"\boxed{3}", r"I take \boxed{0}.", r"\boxed{1}")
    assert steps[0][0] == f"Play this game to win.\nYou are b.\nfree for b\n{ask} 0, 1, 2, 4."
    assert steps[0][1:] == (
        -0.5,
        False,
        False,
        {"player": "b", "rewards": {"a": -0.5, "b": 0.0, "c": 0.0}},
    )
    assert [step[4]["player"] for step in steps] == ["b", "c", "b"]
    assert steps[2][0] == f"free for b\n{ask} 2, 4."
    told, reward, ended, cut, info = env.step(r"\boxed{4}")
    assert (told, reward, ended, cut) == ("", 0.0, True, False)
    assert info["rewards"] == {"a": 0.0, "b": 1.0, "c": -1.0}
    assert env.reset(seed=1)[1] == {"player": "a"}


@pytest.mark.parametrize("said", ["1", r"\boxed{7}", r"\boxed{0}", "", r"\boxed{}"])
def test_who_names_no_legal_action_forfeits(said: str):
    env = make_env("pettingzoo-v1", env=f"{__file__}:Taking", forfeit=-2.0)
    env.reset(seed=1)
    env.step(r"\boxed{0}")
    told, reward, ended, cut, info = env.step(said)
    assert (told, reward, ended, cut) == ("", -2.0, True, False)
    assert info["rewards"] == {"a": 0.0, "b": -2.0, "c": 0.0}
    assert env.reset(seed=1)[1] == {"player": "a"}


def test_a_forfeit_takes_nothing_from_others():
    """PettingZoo tells a player what others earned it when it asks this player again."""
    env = make_env("pettingzoo-v1", env=f"{__file__}:Pays", forfeit=-2.0)
    env.reset(seed=1)
    steps = play(env, r"\boxed{1}", r"\boxed{2}", "none")
    assert [step[4]["rewards"] for step in steps] == [
        {"a": 1.0, "b": -0.5, "c": -0.5},
        {"a": -0.5, "b": 2.0, "c": -0.5},
        {"a": 0.0, "b": 0.0, "c": -2.0},
    ]
    assert steps[-1][1:4] == (-2.0, True, False)
    # What was paid is not told again: neither later on, nor in the next game.
    env.reset(seed=1)
    earned = [step[4]["rewards"] for step in play(env, *(rf"\boxed{{{n}}}" for n in (1, 2, 0, 4)))]
    # 4 ends it: it earns 1 besides, and costs the others 1.
    assert [sum(each[name] for each in earned) for name in "abc"] == [5.0, -0.5, -2.5]


def test_rounds_are_paid_once():
    env = make_env("pettingzoo-v1", env=f"{__file__}:Rounds")
    env.reset(seed=1)
    steps = play(env, r"\boxed{0}", r"\boxed{1}", r"\boxed{2}", r"\boxed{3}", "none")
    paid = [step[4]["rewards"] for step in steps]
    assert paid[2] == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert paid[4] == {"a": 0.0, "b": -1.0, "c": 0.0}


def test_rewards_of_a_game_that_are_something_else():
    env = make_env("pettingzoo-v1", env=f"{__file__}:Prices")
    env.reset(seed=1)
    steps = play(env, r"\boxed{0}", r"\boxed{4}")
    assert steps[1][4]["rewards"] == {"a": -1.0, "b": 1.0, "c": -1.0}


def test_actions_and_observations_in_words():
    names = ["none", "one", "two", "out", "Win"]
    env = make_env(
        "pettingzoo-v1", env=f"{__file__}:Taking", actions=names, describe=f"{__file__}:backwards", task=""
    )
    assert env.reset(seed=1)[0] == "a has 5\nPut one of these in \\boxed{}: none, one, two, out, win."
    assert env.step(r"\boxed{Two}")[0] == "b has 4\nPut one of these in \\boxed{}: none, one, out, win."


def test_a_random_opponent_takes_what_is_legal():
    env = make_env("pettingzoo-v1", env=f"{__file__}:Taking")
    sides = set()
    for number in range(30):
        _, info = env.reset(seed=HELD_OUT + number)
        over = False
        while not over:
            *_, ended, cut, info = env.step(env.unwrapped._game.moves()[0])
            over = ended or cut
        assert list(info["rewards"]) == ["abc"[(HELD_OUT + number) % 3]]
        sides.add(*info["rewards"])
    assert sides == {"a", "b", "c"}


def test_a_game_that_opponents_end_at_once_is_none():
    """Otherwise each third game would be over before c was to act."""
    env = make_env("pettingzoo-v1", env=f"{__file__}:Taking", opponent="random")
    for number in range(2, 60, 3):
        told, info = env.reset(seed=number)
        assert info == {"player": "c"}
        assert "4" in told.split(":")[1]
        assert env.step(r"\boxed{4}")[1:3] == (1.0, True)
    hopeless = make_env("pettingzoo-v1", env=f"{__file__}:Taking", opponent=f"{__file__}:wins")
    with pytest.raises(RuntimeError, match="100 consecutive games ended before the model could act"):
        hopeless.reset(seed=1)


def wins(messages: Any, moves: Any, rng: Any) -> str:
    """An opponent that always takes 4."""
    return r"\boxed{4}"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"env": "nim"}, "not of the form path/to/file.py:NAME"),
        ({"env": f"{__file__}:Boxes"}, "they must be Discrete or Text"),
        ({"env": f"{__file__}:play"}, None),
        ({"env": f"{__file__}:NIM"}, "creates a str, which is not a game with PettingZoo's AEC interface"),
        ({"env": f"{__file__}:Taking", "actions": ["one"]}, "has 5 actions"),
        ({"env": f"{__file__}:Taking", "describe": "words"}, "describe=words is not of the form"),
        ({"env": f"{__file__}:Taking", "opponent": "nobody"}, "the opponent 'nobody' is unknown"),
    ],
)
def test_what_is_no_game(options: dict[str, Any], wrong: str | None):
    with pytest.raises(UserError if wrong else EnvironmentFailure, match=wrong):
        make_env("pettingzoo-v1", **options)


def test_games_that_break_the_form_say_how():
    lingers = make_env("pettingzoo-v1", env=f"{__file__}:Lingers")
    lingers.reset(seed=1)
    with pytest.raises(
        TypeError, match=r"step\(None\) of the player a, who has ended, did not remove it from agents"
    ):
        lingers.step(r"\boxed{3}")
    wordy = make_env("pettingzoo-v1", env=f"{__file__}:Taking", describe=f"{__file__}:wordless")
    with pytest.raises(TypeError, match="describe returned a int"):
        wordy.reset(seed=1)
    with pytest.raises(UserError, match=r"--env pettingzoo-v1 env_options.env=.*:Taking --agent multi-turn"):
        make_env(f"{__file__}:Taking")


def test_the_example():
    env = make_env("pettingzoo-v1", env=f"{NIM}:Nim", task="", test_opponent=f"{NIM}:chance")
    told, info = env.reset(seed=2)
    left = int(told.split()[1])
    assert told == f"Compute {left} - 1.\nPut the final answer in \\boxed{{}}."
    assert info == {"player": "first"}
    turns = 0
    while left > 0:
        *_, ended, _, info = env.step(f"\\boxed{{{left - 1}}}")
        left, turns = left - 1, turns + 1
        assert ended == (left == 0)
    winner, loser = ("first", "second") if turns % 2 else ("second", "first")
    assert info["rewards"] == {winner: 1.0, loser: -1.0}
    env.reset(seed=2)
    for said in ("", r"\boxed{-1}", r"\boxed{0}"):
        env.reset(seed=2)
        *_, ended, _, info = env.step(said)
        assert (ended, info["rewards"]) == (True, {"first": -1.0, "second": 1.0})
    for number in range(20):  # the opponent never breaks the rules
        told, info = env.reset(seed=HELD_OUT + number)
        while told:
            told, reward, ended, _, _ = env.step(f"\\boxed{{{int(told.split()[1]) - 1}}}")
        assert abs(reward) == 1.0


def test_pettingzoo_s_own_games():
    pytest.importorskip("pygame", reason="pygame, which PettingZoo's classic games need, is not installed")
    pytest.importorskip("pettingzoo", reason="pettingzoo is not installed")
    env = make_env("pettingzoo-v1", env="pettingzoo.classic.tictactoe_v3:env")
    assert env.reset(seed=0)[1] == {"player": "player_1"}
    steps = play(env, *(rf"\boxed{{{cell}}}" for cell in (0, 3, 1, 4, 2)))
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert steps[-1][4]["rewards"] == {"player_1": 1.0, "player_2": -1.0}
    env.reset(seed=0)
    env.step(r"\boxed{0}")
    assert env.step(r"\boxed{0}")[4]["rewards"] == {"player_1": 0.0, "player_2": -1.0}
    stones = make_env(
        "pettingzoo-v1", env="pettingzoo.classic.rps_v2:env", actions=["rock", "paper", "scissors"]
    )
    stones.reset(seed=0)
    told, _, _, _, info = stones.step(r"\boxed{rock}")
    assert info["player"] == "player_1"
    assert "rock" not in told.split("Put one")[0], "what the other one chose is not seen before both have"
    # PettingZoo tells a player when it is asked the next time; it is paid before, and once.
    assert stones.step(r"\boxed{paper}")[4]["rewards"] == {"player_0": -1.0, "player_1": 1.0}
    assert stones.step(r"\boxed{rock}")[4]["rewards"] == {"player_0": 0.0, "player_1": 0.0}
    assert stones.step("none")[4]["rewards"] == {"player_0": 0.0, "player_1": -1.0}
