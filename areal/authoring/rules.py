"""The assumptions of training about an environment, as rules; a broken rule explains how to fix it."""

from __future__ import annotations

import math
import re
import sys
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import wait
from functools import partial
from numbers import Real
from threading import Barrier
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from gymnasium.utils.env_checker import data_equivalence

from areal.authoring.subject import (
    FILLERS,
    PROBLEMS,
    Broken,
    FixedActionEpisode,
    NoText,
    Subject,
    Unknown,
    arguments,
    short,
)
from areal.envs.pictures import READS, content_of, is_readable, kind_of
from areal.envs.words import not_in_words
from areal.rollout.environments import named_player, wrong_player
from areal.rollout.tasks import held_out

THREADS = 8
"""The default of rollout.env_workers."""


def is_made(subject: Subject) -> str:
    """The environment can be created, and is a Gymnasium environment."""
    env = subject.env = subject.make()
    if not isinstance(env, gymnasium.Env):
        raise Broken(f"it creates a {type(env).__name__}; make it a subclass of gymnasium.Env")
    subject.solves = callable(getattr(env.unwrapped, "solution", None))
    for warning in getattr(env.unwrapped, "warnings", ()):
        subject.warn(warning)
    read = "".join(f"; {line}" for line in getattr(env.unwrapped, "notices", ()))
    return f"{type(env.unwrapped).__module__}:{type(env.unwrapped).__qualname__}{read}"


def gymnasium_agrees(subject: Subject) -> str:
    """Gymnasium's own checker finds nothing wrong; its warnings are passed on."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        env = subject.make().unwrapped
        try:
            subject.watch.call("Gymnasium's checker", _ask_gymnasium, env)
        except AssertionError as error:
            raise Broken(str(error)) from error
    for warning in said:
        if issubclass(warning.category, UserWarning):
            subject.warn(re.sub(r"\x1b\[\d+m", "", str(warning.message)).removeprefix("WARN: "))
    return "gymnasium.utils.env_checker finds no errors"


def _ask_gymnasium(env: Any) -> None:
    check_with_gymnasium(env, skip_render_check=True, skip_close_check=True)


def spaces_are_honest(subject: Subject) -> str:
    """Any text is an action; observations are text and belong to their space."""
    env = subject.env
    observation, _ = subject.reset(env, subject.tasks(1)[0])
    if wrong := not_in_words(env, observation, env.spec.id if env.spec else ""):
        raise NoText(f"{wrong}; the other rules were not checked")
    for text in ("", "plain words", "é𝄞", "a\nb\0c", "a" * 10_000):
        if text not in env.action_space:
            raise Broken(
                f"the action space does not contain {short(text)}, but a model may write anything; use "
                "areal.envs.text.UnicodeText(2**20)"
            )
    for task in subject.tasks():
        episode = subject.run_episode(env, task, FILLERS[0])
        for name, observation in [("reset", episode.observation)] + [("step", s[0]) for s in episode.steps]:
            if not is_readable(observation):
                raise Broken(f"{name} returned an observation of type {kind_of(observation)}; {READS}")
            if observation not in env.observation_space:
                raise Broken(
                    f"{name} returned an observation outside of the observation space: "
                    f"{short(observation)}; use areal.envs.text.UnicodeText(2**16), or a longer one"
                )
    found = "all actions are accepted, and observations are in the space"
    if subject.turns > 1:
        found += f"; episodes of up to {subject.turns} steps need an agent such as --agent multi-turn"
    return found


def is_deterministic(subject: Subject) -> str:
    """The same seed and options give the same problem, and the same action gives the same outcome."""
    mend = (
        "use only self.np_random (after super().reset(seed=seed)) or random.Random(...) with seed or index "
        "as sources of randomness; do not use random, numpy.random, sets, hashes of text or the clock"
    )
    env, other = subject.env, subject.make()
    for task in subject.tasks():
        first = subject.reset(env, task)
        for again, which in ((env, "the second time"), (other, "in another instance")):
            if not data_equivalence(first, subject.reset(again, task)):
                raise Broken(f"reset({arguments(task)}) returns something different {which}; {mend}")
        for action in (FILLERS[0], *([None] if subject.solves else [])):
            one, two = (subject.run_episode(e, task, action).steps for e in (env, other))
            if not data_equivalence(one, two):
                raise Broken(f"the same action has a different result the second time, after {task}; {mend}")
    return f"{PROBLEMS} problems, three times each"


def splits_are_disjoint(subject: Subject) -> str:
    """The evaluation split has no problem of the training split."""
    env = subject.env
    if not callable(getattr(env.unwrapped, "count", None)):
        return "there are no splits: evaluation uses other seeds than training"
    sizes = [
        subject.watch.call(f"count({split!r})", env.unwrapped.count, split) for split in ("train", "test")
    ]
    if 0 in sizes:
        raise Broken(f"count('train') and count('test') are {sizes[0]} and {sizes[1]}; neither may be 0")
    train = _of_splits(subject, subject.tasks(min(200, sizes[0] or 200)))
    test = _of_splits(subject, held_out(env, 200))
    both = [question for key, question in test.items() if key in train]
    if both and len(train | test) > 1:
        raise Broken(
            f"{len(both)} of {len(test)} held-out problems are also in the train split, such as "
            f"{short(both[0])}; remove them, because an evaluation must not use training "
            "problems"
        )
    return "no held-out problem was found in the train split"


def _of_splits(subject: Subject, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the questions by their text; for a mixture, only those of environments that have splits."""
    asked = [subject.reset(subject.env, task) for task in tasks]
    found = [content_of(observation) for observation, info in asked if "split" in info or "env" not in info]
    return {repr(question): question for question in found}


def rewards_are_whole(subject: Subject) -> str:
    """Rewards are finite, and equal the sum of their parts."""
    env, named, nameless = subject.env, True, list[Any]()
    for task in subject.tasks():
        for action in (*FILLERS, *([None] if subject.solves else [])):
            episode = subject.run_episode(env, task, action)
            named &= checked_rewards(episode)
            players = [info.get("player") for info in (episode.info, *(step[4] for step in episode.steps))]
            nameless += [player for player in players if player is not None and not isinstance(player, str)]
    if nameless:
        subject.warn(f'info["player"] is {short(nameless[0])}, which is not a string, so it names no player')
    if not named:
        subject.warn(
            'name the parts of the reward, as in info["reward_parts"] = {"correct": reward}; each '
            "becomes a metric"
        )
    return "finite, and equal to the sum of their parts"


def checked_rewards(episode: FixedActionEpisode) -> bool:
    """Return whether the parts of all rewards are named; raises Broken if a reward is wrong."""
    named, player = True, named_player(episode.info)
    for _, reward, _, _, info in episode.steps:
        named &= _checked_reward(reward, info, player)
        player = named_player(info)
    return named


def _checked_reward(reward: Any, info: dict[str, Any], player: str) -> bool:
    """Check the reward of a step.

    Args:
        player: the player who acted; empty if there is one player.
    """
    if not isinstance(reward, Real) or not math.isfinite(reward):
        raise Broken(f"step returned the reward {reward!r}; return a finite float")
    reward = float(reward)
    if "rewards" in info:
        earned = info["rewards"]
        if not isinstance(earned, Mapping) or not all(
            isinstance(n, str) and isinstance(x, Real) and math.isfinite(x) for n, x in earned.items()
        ):
            raise Broken(f'info["rewards"] is {short(earned)}; set it to a dict of players and finite floats')
        if abs(sum(earned.values()) - reward) > 1e-6 * max(1.0, abs(reward)):
            raise Broken(f"the players earned {dict(earned)}, but the reward is {reward:g}; return their sum")
    if wrong := wrong_player(reward, info, player):
        raise Broken(f"step returned {wrong}")
    if "reward_parts" not in info:
        return "rewards" in info
    parts = info["reward_parts"]
    if not isinstance(parts, Mapping) or not all(
        isinstance(n, str) and isinstance(v, Real) and math.isfinite(v) for n, v in parts.items()
    ):
        raise Broken(f'info["reward_parts"] is {short(parts)}; set it to a dict of names and finite floats')
    if abs(sum(parts.values()) - reward) > 1e-6 * max(1.0, abs(reward)):
        raise Broken(
            f"the parts {dict(parts)} sum to {sum(parts.values()):g}, but the reward is {reward:g}; return "
            "their sum"
        )
    return True


def solutions_earn(subject: Subject) -> str:
    """The environment's solution earns more than an action that is not a solution."""
    if not subject.solves:
        raise Unknown("to have more rules checked, give the environment a method solution() -> str")
    for task in subject.tasks():
        best, worst = (subject.run_episode(subject.env, task, action).reward for action in (None, FILLERS[0]))
        if not best > worst:
            raise Broken(f"after {task}, solution() earns {best:g}, not more than the answer '?'")
    return "solution() earns more than a wrong answer"


def threads_agree(subject: Subject) -> str:
    """Several threads give the same results as one; environments with their own processes are exempt."""
    if (subject.env.metadata or {}).get("isolation") == "process":
        raise Unknown("each environment requests its own process (metadata)")
    tasks = subject.tasks()
    actions = (FILLERS[0], *([None] if subject.solves else []))
    plan = [(task, action) for task in tasks for action in actions]
    alone = [subject.run_episode(subject.env, task, action) for task, action in plan]

    ready = Barrier(THREADS)

    def work(shift: int) -> bool:
        env = subject.make()
        order = [(i + shift * len(plan) // THREADS) % len(plan) for i in range(len(plan))]
        ready.wait()
        end, same = time.monotonic() + 0.2, True
        while same and time.monotonic() < end:
            same = all(
                data_equivalence(subject.run_episode(env, *plan[i]).steps, alone[i].steps) for i in order
            )
        return same

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # an episode takes less time than a thread's default interval
    try:
        running = [subject.watch.start(partial(work, n)) for n in range(THREADS)]
        wait(running)
    finally:
        sys.setswitchinterval(interval)
    if not all(outcome.result() for outcome in running):
        raise Broken(
            f"with {THREADS} threads, each with its own environment, rewards or observations differ from "
            "those with one thread; environments must not share anything that changes: no globals, no "
            "class attributes, no working directory; for code that you cannot change, "
            "rollout.env_isolation=process gives each environment its own process"
        )
    return f"{THREADS} threads with one environment each have the same results as one thread"


def is_fast(subject: Subject, seconds: float = 0.5) -> str:
    """Measure episodes per second."""
    tasks = subject.tasks()

    def work() -> float:
        env, done, started = subject.make(), 0, time.monotonic()
        subject.run_episode(env, tasks[0], FILLERS[0])  # excludes what is prepared only once
        started = time.monotonic()
        while done < 3 or time.monotonic() - started < seconds:
            subject.run_episode(env, tasks[done % len(tasks)], FILLERS[0])
            done += 1
        return done / (time.monotonic() - started)

    one = work()
    running = [subject.watch.start(work) for _ in range(THREADS)]
    many = sum(outcome.result() for outcome in running)
    if many < 10:
        subject.warn(
            f"{many:.1f} episodes/s with {THREADS} threads may slow down training; increase "
            "rollout.env_workers, or do less in step"
        )
    return f"{one:,.0f} episodes/s with one thread, {many:,.0f} with {THREADS} (rollout.env_workers)"


def closes(subject: Subject) -> str:
    """The environment can be closed."""
    subject.watch.call("close()", subject.env.close)
    return "close() raises nothing"
