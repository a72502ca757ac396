"""Environments of other libraries: what has reset and step is played as it is."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import areal
from areal.authoring import check
from areal.authoring.describe import describe
from areal.cli import main
from areal.envs.adapted import AdaptedEnv
from areal.errors import EnvironmentFailure, UserError
from areal.registry import find_env, make_env
from areal.rollout.environments import EnvironmentPool

assert areal.__version__

SOURCE = '''
from abc import ABC
import random


class Base(ABC):
    pass


class Coin(Base):
    """Asks for heads or tails.

    Args:
        prompt: what is asked.
    """

    def __init__(self, prompt="Heads or tails?"):
        self.prompt = prompt

    def reset(self, seed=None):
        self.side = random.Random(seed).choice(["heads", "tails"])
        return self.prompt

    def step(self, action):
        return "", float(action == self.side), True, {}


class NoEnv:
    def reset(self):
        pass


def make(side="heads", **options):
    """Makes a coin."""
    return Coin(**options)


def none():
    return {}


def gymnasium_s():
    import gymnasium
    return gymnasium.make("guess-v1")


one = Coin()
'''


@pytest.fixture
def coins(tmp_path: Path) -> str:
    (tmp_path / "coins.py").write_text(SOURCE)
    return f"{tmp_path}/coins.py"


@pytest.mark.parametrize("name", ["Coin", "make"])
def test_what_has_reset_and_step_is_an_environment(coins: str, name: str):
    env = make_env(f"{coins}:{name}", prompt="Which?")
    assert isinstance(env, gymnasium.Env)
    sides = ["heads" if env.step("heads")[1] else "tails" for i in range(20) if env.reset(seed=i)]
    assert set(sides) == {"heads", "tails"}
    assert env.reset(seed=3) == ("Which?", {})
    assert env.step(sides[3]) == ("", 1.0, True, False, {})
    found = describe(name, find_env(f"{coins}:{name}"))
    assert found.summary == {"Coin": "Asks for heads or tails.", "make": "Makes a coin."}[name]
    assert [o.name for o in found.options] == {"Coin": ["prompt"], "make": ["side"]}[name]
    rules = {name: rule for name, rule in check.RULES.items() if name != "throughput"}
    findings = check.check_env(lambda: make_env(f"{coins}:{name}"), rules=rules)
    assert [str(f) for f in findings if f.verdict == "failed"] == []


def test_what_makes_gymnasium_s_is_left_as_it_is(coins: str):
    assert type(make_env(f"{coins}:gymnasium_s").unwrapped).__name__ == "GuessEnv"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (":NoEnv", "is not an environment; make it a subclass of gymnasium.Env, or give it reset and step"),
        (":none", "is not an environment: it creates a dict without reset or step"),
        (":one", "creates one environment, but several are needed at the same time; name its class"),
        ("", "name the environment, as in .*coins.py:Coin .it has Coin."),
    ],
)
def test_what_is_none(coins: str, name: str, complaint: str):
    with pytest.raises(UserError, match=complaint):
        make_env(coins + name)


def test_a_registered_class_is_adapted():
    areal.register_env("adapted-toy-v0", Toy)
    try:
        assert make_env("adapted-toy-v0").reset(seed=4)[0] == "go"
    finally:
        del gymnasium.registry["adapted-toy-v0"]


class Toy:
    """Takes what it returns; notes what it is given."""

    def __init__(self, first: Any = "go", then: Any = ("", 1.0, True, False, {})) -> None:
        self.first, self.then, self.given = first, then, []  # type: ignore[var-annotated]

    def reset(self, **given: Any) -> Any:
        self.given.append(given)
        return self.first

    def step(self, action: str) -> Any:
        return self.then


def resets(reset: Callable[..., Any], **more: Any) -> tuple[AdaptedEnv, Any]:
    toy = type("Toy", (Toy,), {"reset": reset, **more})()
    return AdaptedEnv(toy), toy


def test_reset_is_given_what_it_takes():
    def both(self: Toy, seed: int, options: Any) -> str:
        return f"{seed} {options}"

    def only(self: Toy, *, seed: int | None = None) -> str:
        return f"{seed}"

    def by_place(self: Toy, seed: int = 5, /) -> str:
        return f"{seed}"

    def none(self: Toy) -> str:
        return "-"

    for reset, expected, warned in (
        (both, "7 {'index': 1}", False),
        (only, "7", False),
        (by_place, "5", True),
        (none, "-", True),
    ):
        env, _ = resets(reset)
        assert env.reset(seed=7, options={"index": 1}) == (expected, {})
        assert bool(env.warnings) == warned
    env, toy = resets(Toy.reset)
    env.reset(seed=7)
    assert toy.given == [{"seed": 7, "options": None}]
    seeded: list[int] = []
    env, _ = resets(none, seed=lambda self, seed: seeded.append(seed))
    env.reset(seed=7)
    env.reset()
    assert (seeded, env.warnings) == ([7], ())
    env, _ = resets(none, seed=3)  # no method
    assert env.reset(seed=7) == ("-", {})
    assert env.warnings


def test_solution_and_count_are_taken_over_where_they_can_be_used():
    def indexed(self: Toy, options: Any = None) -> str:
        return "go"

    def plain(self: Toy, seed: int) -> str:
        return "go"

    methods: dict[str, Any] = {"solution": lambda self: "yes", "count": lambda self, split: 3}
    env, _ = resets(indexed, **methods)
    assert (env.solution(), env.count("train"), env.warnings) == ("yes", 3, ())  # type: ignore[attr-defined]
    env, _ = resets(plain, **methods)
    assert not hasattr(env, "count")  # an index would not reach its reset


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("o", 1.0, True, False, {"a": 1}), ("o", 1.0, True, False, {"a": 1})),
        (("o", 1, False, {}), ("o", 1, False, False, {})),
        (("o", 1, 1, {}), ("o", 1, True, False, {})),
        (("o", 0.5, True, {"TimeLimit.truncated": True}), ("o", 0.5, False, True)),
        (("o", 0.5, False, {"TimeLimit.truncated": True}), ("o", 0.5, False, False)),
        (("o", 1.0, True), r"step returned a tuple of 3 .str, float, bool.; return .observation, reward"),
        (("o", 1.0, True, False), "step returned a tuple of 4 .str, float, bool, bool."),
        (("o", 1.0, True, False, None), "step returned a tuple of 5 .*NoneType"),
        (["o", 1.0, True, False, {}], "step returned a list"),
        (None, "step returned a NoneType"),
        (
            ("o", {"a": 1.0}, {"a": True}, {}),
            "step returned the dict .* for terminated or truncated; return a bool",
        ),
    ],
)
def test_what_step_may_return(given: Any, expected: Any):
    env = AdaptedEnv(Toy(then=given))
    if isinstance(expected, str):
        with pytest.raises(TypeError, match=expected):
            env.step("x")
    else:
        assert env.step("x")[: len(expected)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("o", ("o", {})),
        (("o", {"a": 1}), ("o", {"a": 1})),
        (("o", 1.0, True, {}), "reset returned a tuple of 4"),
        (
            ("o", "p"),
            "reset returned a tuple of 2 .str, str.; return the observation, or .observation, info.",
        ),
    ],
)
def test_what_reset_may_return(given: Any, expected: Any):
    env = AdaptedEnv(Toy(first=given))
    if isinstance(expected, str):
        with pytest.raises(TypeError, match=expected):
            env.reset(seed=0)
    else:
        assert env.reset(seed=0) == expected


def test_async_methods_are_refused():
    async def later(self: Any, *given: Any) -> None: ...

    with pytest.raises(TypeError, match="reset is async; make it an ordinary method"):
        resets(later)[0].reset()
    with pytest.raises(TypeError, match="step is async"):
        resets(Toy.reset, step=later)[0].step("x")


def test_a_wrong_return_names_environment_and_call():
    async def stepped() -> None:
        pool = EnvironmentPool(lambda: AdaptedEnv(Toy(then=("", 1.0, True))), 1, name="toy")
        try:
            async with pool.lend() as env:
                await pool.step(env, "x", {"seed": 1})
        finally:
            await pool.close()

    with pytest.raises(EnvironmentFailure, match=r"environment 'toy': step in .* step returned a tuple of 3"):
        asyncio.run(stepped())


@pytest.mark.parametrize("seeded", [False, True])
def test_a_run_says_what_it_adapts_and_what_may_be_wrong(
    seeded: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "fixed.py").write_text(
        f"class Fixed:\n    def reset(self{', seed' * seeded}): return 'Say yes.'\n"
        "    def step(self, action): return '', float(action == 'yes'), True, {}\n"
    )
    with pytest.raises(SystemExit) as exit:
        main(["train", "--env", f"{tmp_path}/fixed.py:Fixed", "--device", "cpu", "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert exit.value.code == 0
    assert "adapts fixed:Fixed, which has reset and step" in said
    assert ("its reset does not accept a seed" in said) != seeded


@pytest.mark.skipif(importlib.util.find_spec("gem") is None, reason="gem-llm is not installed")
def test_gem_as_it_is():
    env = make_env("gem:make", env_id="game:GuessTheNumber-v0-easy")
    assert env.reset(seed=1) == env.reset(seed=1)
    assert "between 1 and 10" in env.reset(seed=1)[0]
    assert env.step("no number")[2] is True


def test_textarena_s_games_for_one_player():
    pytest.importorskip("textarena", reason="textarena is not installed")
    for game in ("GuessTheNumber-v0", "GuessTheNumber-v0-train", "GuessTheNumber-v0-raw"):
        env = make_env("textarena-v1", game=game)
        opening = env.reset(seed=1)[0]
        assert opening.startswith("You are Player 0.")
        steps = []
        while not steps or not steps[-1][2]:
            steps.append(env.step(f"I say [{len(steps) + 1}]"))
        assert {step[0] for step in steps[:-1]} == {
            "The target number is higher."
        }  # its own moves are left out
        assert [step[1] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step("[1]")
        assert env.reset(seed=1)[0] == opening
        again = [env.step(f"[{i + 1}]") for i in range(len(steps))]
        assert [step[1] for step in again] == [step[1] for step in steps]
    assert env.metadata["isolation"] == "process"
    with pytest.raises(UserError, match=r"TextArena .* has no game 'GuessTheNumbers-v0'"):
        make_env("textarena-v1", game="GuessTheNumbers-v0")
