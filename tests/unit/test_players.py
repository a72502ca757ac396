"""Games of several players: each sees its own words alone, and is trained on by what it earned itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np
import pytest
import torch
from chat import Scripted, renderer, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from areal.agents.interface import Agent
from areal.agents.multi_turn import MultiTurn
from areal.agents.single_turn import SingleTurn
from areal.config.objective import Objective
from areal.envs.text import UnicodeText
from areal.errors import EnvironmentFailure, UserError
from areal.evaluation.conversations import Chat, read_conversations, write_conversations
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.endpoint_worker import EndpointWorker
from areal.evaluation.episodes import EpisodeOutcome
from areal.learner.credit import Credit, assign
from areal.learner.minibatches import Splitter
from areal.rollout.controller import RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.opening import Opening
from areal.rollout.worker import RolloutWorker
from areal.runtime.accounting import StepAccount
from areal.trajectory import Batch, Episode, Group, Trajectory
from areal.viewer.rollouts import Rollout
from areal.viewer.terminal import shown

TOKENIZER = tokenizer("qwen2.5")


class Secrets(gymnasium.Env[str, str]):
    """Players in turn; each is told a secret, then ``ok``. It pays one at each move, and ends by ``win``."""

    observation_space = UnicodeText(1000)
    action_space = UnicodeText(1000)
    names: Sequence[str] = ("north", "south")
    pays: Any = None
    """What ``info`` has as the rewards of a step, in place of what the player earned."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.moves: list[str] = []
        return self._told(), {"player": self.names[0]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        mover = self.names[len(self.moves) % len(self.names)]
        self.moves.append(action)
        over = action == "win"
        earned = {name: (3.0 if name == mover else -3.0) if over else 0.0 for name in self.names}
        earned[mover] += 0.25
        info = {"player": self.names[len(self.moves) % len(self.names)], "rewards": self.pays or earned}
        return self._told(), sum(earned.values()), over, False, info

    def _told(self) -> str:
        number = len(self.moves)
        return f"secret of {self.names[number]}" if number < len(self.names) else "ok"


async def play(
    *said: str, agent: Agent | None = None, env: type[Secrets] = Secrets, template: str = "qwen2.5"
) -> tuple[Episode, Any, list[str]]:
    """Return the episode, its environment, and the prompts of all responses as text."""
    made = tokenizer(template)
    engine: Any = Scripted([[*made.encode(text), made.eos_token_id] for text in said])
    envs: list[Any] = []
    pool = EnvironmentPool(lambda: envs.append(env()) or envs[-1], 1)
    worker = RolloutWorker(
        engine, renderer(template), agent or MultiTurn(), pool, 2000, opening=Opening("Be brief.")
    )
    episode = await worker.run_episode({"seed": 0}, Sampling(100, seed=5))
    await pool.close()
    assert len({sampling.seed for sampling in engine.samplings}) == len(engine.samplings)
    return episode, envs[0], [made.decode(ids) for ids in engine.asked]


async def test_each_player_has_its_own_conversation_and_reward():
    episode, env, prompts = await play("a", "b", "c", "win")
    assert env.moves == ["a", "b", "c", "win"]
    assert [t.player for t in episode.trajectories] == ["north", "south"]
    assert [t.calls for t in episode.trajectories] == [[0, 2], [1, 3]]
    assert episode.players == {"north": -2.5, "south": 3.5}
    assert episode.reward == 1.0
    assert [t.rewards for t in episode.trajectories] == [[0.25, -2.75], [0.25, 3.25]]
    for own, other, said in (("north", "south", ("a", "c")), ("south", "north", ("b", "win"))):
        (trajectory,) = (t for t in episode.trajectories if t.player == own)
        text = TOKENIZER.decode(trajectory.tokens)
        assert "Be brief." in text
        assert f"secret of {own}" in text
        assert f"secret of {other}" not in text
        sampled = TOKENIZER.decode(trajectory.tokens[trajectory.loss_mask])
        assert sampled == "".join(f"{word}<|im_end|>" for word in said)
    assert ["secret of north" in prompt for prompt in prompts] == [True, False, True, False]
    assert Episode.from_json(episode.to_json()).to_json() == episode.to_json()


async def test_players_who_see_and_say_the_same_are_two():
    class Alike(Secrets):
        def _told(self) -> str:
            return "go"

    episode, _, _ = await play("x", "x", "x", "x", "x", "win", env=Alike)
    assert [(t.player, t.calls) for t in episode.trajectories] == [("north", [0, 2, 4]), ("south", [1, 3, 5])]


async def test_more_than_two_players():
    class Three(Secrets):
        names = ("a", "b", "c")

    episode, _, _ = await play("1", "2", "3", "4", "win", env=Three)
    assert [(t.player, t.calls) for t in episode.trajectories] == [("a", [0, 3]), ("b", [1, 4]), ("c", [2])]
    assert episode.players == {"a": -2.5, "b": 3.5, "c": -2.75}


async def test_a_player_who_never_acts_is_no_trajectory():
    episode, _, _ = await play("win")
    assert [t.player for t in episode.trajectories] == ["north"]
    assert episode.players == {"north": 3.25, "south": -3.0}
    assert episode.returns == {"north": 3.25}


async def test_a_player_without_turns_left_moves_without_words_and_the_game_goes_on():
    class Forfeits(Secrets):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
            return super().step(action or "win")

    episode, env, _ = await play("a", "b", agent=MultiTurn(max_turns=1), env=Forfeits)
    assert env.moves == ["a", "b", "win"]
    assert not episode.unfinished

    class Endless(Secrets):
        pass

    episode, env, _ = await play("a", "b", agent=MultiTurn(max_turns=1), env=Endless)
    assert env.moves == ["a", "b"] + [""] * 8
    assert episode.unfinished


async def test_what_a_player_thinks_it_does_not_say():
    said = "<think>\nmy card is a king\n</think>\n\nwin"
    _, env, _ = await play(said, template="qwen3")
    assert env.moves == ["win"]


async def test_an_agent_with_one_conversation_is_refused():
    with pytest.raises(UserError, match=r"several players \(north, south\).*SingleTurn.*--agent multi-turn"):
        await play("a", agent=SingleTurn())


@pytest.mark.parametrize(
    ("pays", "wrong"),
    [
        ([1.0], "which is not a dict of players and numbers"),
        ({"north": math.nan}, "not a finite number"),
        ({"north": "1"}, "not a finite number"),
        ({0: 0.25}, "which is not a dict of players and numbers"),
        ({"north": 9.0}, "returned the reward 0.25, but rewards that sum to 9.0"),
    ],
)
async def test_wrong_rewards(pays: Any, wrong: str):
    class Wrong(Secrets):
        pass

    Wrong.pays = pays
    with pytest.raises(EnvironmentFailure, match=wrong):
        await play("a", env=Wrong)


class Pays(Secrets):
    """As ``Secrets``, but ``info`` is told otherwise; a move earns its number of letters."""

    opens: Any = None
    then: Sequence[Any] = ()
    """What ``info`` has after each move."""

    def reset(self, **given: Any) -> tuple[str, dict]:
        return super().reset(**given)[0], dict(self.opens)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        info = self.then[len(self.moves)]
        self.moves.append(action)
        return "ok", float(len(action)), len(self.moves) == len(self.then), False, dict(info)


def paying(opens: Any, *then: Any) -> type[Pays]:
    return type("Paying", (Pays,), {"opens": opens, "then": then})


NORTH = {"player": "north"}


@pytest.mark.parametrize(
    ("opens", "then", "wrong"),
    [
        (
            NORTH,
            [NORTH],
            "returned the reward 1.0 and named the player 'north', but not what each player earned",
        ),
        (NORTH, [{}], r"set info\['rewards'\] = {'north': 1.0}, or remove info\['player'\]"),
        ({}, [NORTH], "named the player 'north', but not"),
        (NORTH, [{**NORTH, "rewards": {}}], "named the player 'north', but not"),
        (NORTH, [{**NORTH, "rewards": {"north": 1.0}}, NORTH], "the reward 1.0 and named"),
        ({"player": 0}, [{"player": 0, "rewards": {"0": 1.0}}], r"info\['player'\]=0, which is not a string"),
    ],
)
async def test_a_reward_in_a_game_is_some_player_s(opens: Any, then: list[Any], wrong: str):
    with pytest.raises(EnvironmentFailure, match=f"^environment 'env': step in the task .* {wrong}"):
        await play("a", "b", env=paying(opens, *then))


@pytest.mark.parametrize("value", [None, 3, 0.5, np.zeros(2), ["north"], ""])
async def test_what_is_no_text_is_no_player(value: Any):
    """Such as a position, which changes at each step: there is one conversation all the same."""
    place = {"player": value}
    episode, _, _ = await play("a", "bb", env=paying(place, place, place))
    assert [(t.player, t.calls) for t in episode.trajectories] == [("", [0, 1])]
    assert (episode.reward, episode.players) == (3.0, {})


async def test_moves_that_earn_nothing_need_no_rewards():
    last = {"player": None, "rewards": {"north": 1.0, "south": 0.0}}
    episode, _, _ = await play("", "", "b", env=paying(NORTH, {"player": "south"}, NORTH, last))
    assert episode.players == {"north": 1.0, "south": 0.0}
    alone, _, _ = await play("a", env=paying({}, {"rewards": {}}))
    assert alone.reward == 1.0


def said_by(player: str, tokens: int, call: int = 0) -> Trajectory:
    """One turn of a player."""
    mask = np.array([False, *[True] * tokens])
    zeros = np.zeros(len(mask), np.float32)
    versions = np.where(mask, 0, -1)
    return Trajectory(zeros.astype(np.int32), mask, zeros, versions, "eos", [1], [call], [0.0], player)


def game(**earned: float | None) -> Episode:
    """An episode in which each player with a reward acted; None: it is not there."""
    players = {name: reward for name, reward in earned.items() if reward is not None}
    return Episode([said_by(name, 2) for name in players], sum(players.values()), players=players)


PRESENT = st.sampled_from([-1.0, 0.0, 1.0, None])
GAMES = st.lists(st.tuples(PRESENT, PRESENT, PRESENT).filter(any), min_size=8, max_size=8)


@given(GAMES, st.sampled_from(["group-normalized", "group-centered", "leave-one-out", "global-normalized"]))
def test_a_player_is_compared_with_itself_in_its_group(drawn: list[Any], advantage: Any):
    """Against the definition, row by row, in groups of four; players may be missing in any of them."""
    episodes = [game(**dict(zip("abc", earned, strict=True))) for earned in drawn]
    credit = assign(episodes, Objective(), 10)
    found = credit.advantages(advantage, 4)[:, 0].tolist()
    rows = list(zip(credit.episode, credit.player, credit.returns[:, 0].tolist(), found, strict=True))
    assert [(e, p) for e, p, _, _ in rows] == [(i, p) for i, x in enumerate(episodes) for p in x.players]
    for episode, player, reward, value in rows:
        own = [
            (e, r)
            for e, p, r, _ in rows
            if p == player and (advantage == "global-normalized" or e // 4 == episode // 4)
        ]
        rewards = [r for _, r in own]
        match advantage:
            case "leave-one-out":
                others = [r for e, r in own if e != episode]
                wanted = reward - np.mean(others) if others else 0.0
            case "group-centered":
                wanted = reward - np.mean(rewards)
            case _:
                wanted = (reward - np.mean(rewards)) / (np.std(rewards) + 1e-6)
        assert value == pytest.approx(wanted, abs=1e-4)


def test_the_side_that_always_wins_learns_nothing_from_winning():
    """In a game that the first player wins, a common baseline would praise whatever it does."""
    credit = assign([game(first=1.0, second=-1.0) for _ in range(4)], Objective(), 10)
    assert not credit.advantages("group-centered", 4).any()


def test_discounted_turns_of_a_player_are_those_of_the_player():
    episode = Episode(
        [said_by("a", 1, call=0), said_by("b", 2, call=1), said_by("a", 3, call=2)],
        1.0,
        players={"a": 4.0, "b": -3.0},
    )
    for trajectory, reward in zip(episode.trajectories, (1.0, -3.0, 3.0), strict=True):
        trajectory.rewards = [reward]
    credit = assign([episode], Objective(turn_discount=0.5), 10)
    assert credit.returns.tolist() == [[2.5, 3.0], [-3.0, 0.0]]
    assert credit.lengths.tolist() == [[1, 3], [2, 0]]
    assert [units.tolist() for units in credit.units] == [[0], [0, 0], [1, 1, 1]]


def splits(episodes: list[Episode], **choices: Any) -> tuple[list[list[Any]], Credit, float]:
    """Return the minibatches of two groups of two, two of them, and the credit."""
    groups = [Group(0, 0, episodes[:2]), Group(1, 0, episodes[2:])]
    splitter = Splitter(Objective(**choices), 2, 1000, 10, torch.device("cpu"))
    minibatches, idle = splitter.split(Batch(0, groups))
    return minibatches, assign(episodes, Objective(**choices), 10), idle


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "fixed-length"])
def test_minibatches_hold_whole_groups_however_many_players_acted(aggregation: Any):
    episodes = [game(a=1.0, b=-1.0, c=0.0), game(a=-1.0, b=1.0), game(a=1.0), game(a=-1.0, b=1.0)]
    choices = {"aggregation": aggregation, "advantage": "group-centered"}
    (first, second), credit, idle = splits(episodes, **choices)
    assert credit.episode == [0, 0, 0, 1, 1, 2, 3, 3]
    (one,), (two,) = first, second
    assert sorted(one.advantages.tolist()) == [-1.0] * 4 + [1.0] * 4  # c was alone: it is left out
    assert sorted(two.advantages.tolist()) == [-1.0] * 2 + [1.0] * 2  # and so was b
    assert idle == 2 / 8
    # Each of the five rows of the one and of the three of the other has its share, also where it is left out.
    share = {
        "token-mean": (1 / 10, 1 / 6),
        "sequence-mean": (1 / 10, 1 / 6),
        "fixed-length": (1 / 50, 1 / 30),
    }
    for micro, wanted in zip((one, two), share[aggregation], strict=True):
        assert micro.share.tolist() == pytest.approx([wanted] * len(micro.share))


def test_a_critic_learns_what_each_player_earned():
    (first, second), _, _ = splits(
        [game(a=1.0, b=-1.0), game(a=-1.0, b=1.0), game(a=0.5), game(b=0.25)], advantage="gae"
    )
    assert [micro.rewards.tolist() for micro in (*first, *second)] == [[1.0, -1.0, -1.0, 1.0], [0.5, 0.25]]


async def equal(*episodes: Episode) -> bool:
    """Whether dynamic sampling rejects a group."""
    given = iter(episodes)

    class Rejects:
        rejected = False

        def outstanding(self) -> list[Any]:
            return []

        def admitted_at(self, number: int) -> int:
            return 0

        def finish(self, number: int, group: Group) -> None: ...

        def reject(self, number: int) -> None:
            self.rejected = True

    async def run_episode(task: Any, episode_id: Any) -> Episode:
        return next(given)

    admission: Any = Rejects()
    control = RolloutController(admission, run_episode, lambda n: {}, len(episodes), 8, 0, 0, max_equal=3)
    await control._run_group(0, {})
    return admission.rejected


async def test_dynamic_sampling_looks_at_each_player():
    assert await equal(game(a=1.0, b=-1.0), game(a=1.0, b=-1.0), game(a=1.0))
    assert not await equal(game(a=1.0, b=-1.0), game(a=-1.0, b=1.0))
    assert not await equal(game(a=1.0, b=-1.0), game(a=1.0, b=0.0))


def test_metrics_of_players():
    batch = Batch(0, [Group(0, 0, [game(a=1.0, b=-1.0), game(a=0.5, b=-0.5), game(a=1.5)])])
    found = StepAccount(0.0, 0).close(batch, 1.0, {}, 1.0, 10)
    assert (found["player/a/reward"], found["player/b/reward"]) == (1.0, -0.75)
    assert found["reward/mean"] == pytest.approx(1.5 / 5)
    assert found["reward/std"] > 0.5
    alone = Batch(0, [Group(0, 0, [Episode([said_by("", 2)], 1.0)])])
    assert not [
        name for name in StepAccount(0.0, 0).close(alone, 1.0, {}, 1.0, 1) if name.startswith("player")
    ]


async def test_a_game_is_shown_by_who_said_what():
    episode, _, _ = await play("a", "b", "c", "win")
    text = shown(Rollout(1, 0, 1, 1, 0.0, episode), lambda ids: str(TOKENIZER.decode(ids))).plain
    assert "north -2.5, south 3.5" in text
    north, south = text.index("north: reward -2.5, moves 1, 3"), text.index("south: reward 3.5, moves 2, 4")
    assert north < text.index("secret of north") < south < text.index("secret of south")


def test_conversations_of_an_evaluation_keep_their_players(tmp_path: Path):
    file = tmp_path / "conversations" / "it.jsonl"
    said = [said_by("north", 2), Chat([{"role": "user", "content": "go"}], 1, "south")]
    write_conversations(file, 0, 0, said)
    write_conversations(file, 0, 1, [said_by("", 2)])
    first, second = file.read_bytes().splitlines()
    assert [each.player for each in read_conversations(first)] == ["north", "south"]
    assert b"player" not in second


async def behind_an_endpoint(agent: Agent, *said: str) -> tuple[EpisodeOutcome, list[list[str]]]:
    """Play with a model behind an endpoint; return the outcome, and what each call was asked."""
    left, asked = list(said), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append([message["content"] for message in json.loads(request.content)["messages"]])
        message = {"role": "assistant", "content": left.pop(0)}
        usage = {"completion_tokens": 3}
        return httpx.Response(200, json={"choices": [{"message": message}], "usage": usage})

    pool = EnvironmentPool(Secrets, 1)
    async with httpx.AsyncClient(base_url="http://x/v1/", transport=httpx.MockTransport(answer)) as client:
        worker = EndpointWorker(EndpointClient(client, "m"), agent, pool, Opening("Be brief."), {})
        outcome = await worker.run_episode({"seed": 0}, Sampling(100))
    await pool.close()
    return outcome, asked


async def test_players_behind_an_endpoint():
    outcome, asked = await behind_an_endpoint(MultiTurn(), "a", "b", "win")
    assert asked == [
        ["Be brief.", "secret of north"],
        ["Be brief.", "secret of south"],
        ["Be brief.", "secret of north", "a", "ok"],
    ]
    assert [(chat.player, chat.messages[-1]["content"]) for chat in outcome.conversations] == [
        ("north", "win"),
        ("south", "b"),
    ]
    assert (outcome.reward, outcome.tokens) == (0.75, 9)
    with pytest.raises(UserError, match="one conversation for all of them"):
        await behind_an_endpoint(SingleTurn(), "a")
