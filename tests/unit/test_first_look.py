"""What is no environment for a model, or has nothing to measure, is found before an engine starts."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from areal.api import check
from areal.cli import main
from areal.config import load_config
from areal.envs.text import UnicodeText
from areal.errors import EnvironmentFailure, UserError
from areal.runtime.first_look import Look, look_at


class Plain(gymnasium.Env[Any, Any]):
    observation_space = action_space = UnicodeText(100)
    begins: Any = ("go", {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if isinstance(self.begins, Exception):
            raise self.begins
        return self.begins


def begins(value: Any, **attributes: Any) -> Plain:
    return type("Made", (Plain,), {"begins": value, **attributes})()


def looked(env: Any, **given: Any) -> Look:
    return look_at(env, "made", **{"problems": 1, "training": True, "time_limit": 30.0, **given})


NO_TEXT = gymnasium.spaces.Discrete(3)


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        (begins(({"a": 1}, {})), "its observations are of type dict, .* as gym-text-v1 does"),
        (begins((3, {})), "of type int"),
        (begins((None, {})), "of type NoneType"),
        (begins(("go", {}), action_space=NO_TEXT), r"its actions are Discrete\(3\), but a model writes text"),
        (begins("go"), r"did not return \(observation, info\)"),
        (begins(("go", None)), r"did not return \(observation, info\)"),
        (begins(ValueError("broken")), "raised ValueError: broken .at .*test_first_look.py"),
        (begins(("go", {"messages": []})), "which is not a list of messages"),
        (begins(("go", {}), count=lambda self, split: int(split == "train")), "has no held-out problem"),
        (
            begins(("go", {}), count=lambda self, split: int(split == "test")),
            "no problems in its train split",
        ),
    ],
)
def test_one_reset_shows_it(env: Any, complaint: str):
    with pytest.raises((UserError, EnvironmentFailure), match=complaint) as caught:
        looked(env)
    assert "\n" not in str(caught.value)


def steps(value: Any) -> Plain:
    """An environment whose step returns or raises something, or waits for it."""

    def step(self: Any, action: str) -> Any:
        if isinstance(value, threading.Event):
            value.wait()
        if isinstance(value, Exception):
            raise value
        return value

    return begins(("go", {}), step=step)


JUDGED = ("", 0.0, True, False, {})


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            ZeroDivisionError("in the verifier"),
            r"step\('\?'\) in the task .* raised ZeroDivisionError: in the v",
        ),
        (UserError("the judge has no key"), "the judge has no key"),
        (("", 0.0, True), r"did not return \(observation, reward, terminated, truncated, info\)"),
        (("", None, True, False, {}), "returned the reward None, which is not a finite number"),
        (("", float("nan"), True, False, {}), "returned the reward nan"),
    ],
)
def test_one_answer_shows_what_is_wrong_with_the_verifier(value: Any, complaint: str):
    with pytest.raises((UserError, EnvironmentFailure), match=complaint) as caught:
        looked(steps(value))
    assert "\n" not in str(caught.value)
    looked(steps(value), steps=False)  # a program may set the reward itself


def test_an_answer_that_is_judged_passes():
    looked(steps(JUDGED))
    looked(steps(NotImplementedError()))


def test_episodes_of_several_turns_are_not_for_an_agent_that_answers_once():
    assert looked(steps(("again", 0.0, False, False, {}))).goes_on
    assert not looked(steps(JUDGED)).goes_on
    assert not looked(steps(("", 0.0, False, True, {}))).goes_on

    def warned(**settings: str) -> bool:
        plan = check(load_config(values={"device": "cpu", **settings}))
        return any("use --agent multi-turn" in line for line in plan.remarks)

    assert warned(env="guess-v1")
    assert not warned(env="guess-v1", agent="multi-turn")
    assert not warned(env="math-v1")


def test_a_verifier_that_hangs():
    freed = threading.Event()
    with pytest.raises(EnvironmentFailure, match=r"step\('\?'\) .* has not returned after 2 s"):
        looked(steps(freed), time_limit=2)
    freed.set()


def test_a_program_takes_no_steps(tmp_path: Path):
    """Nor does the look at its environment: only its reset must work."""
    (tmp_path / "mine.py").write_text(
        "import gymnasium\nfrom areal.envs.text import UnicodeText\n"
        "class Mine(gymnasium.Env):\n    observation_space = action_space = UnicodeText(9)\n"
        "    def reset(self, *, seed=None, options=None): return 'go', {}\n"
        "    def step(self, action): raise ValueError('never')\n"
        "async def solve(task, base_url, api_key): return 1.0\n"
    )
    env, agent = f"{tmp_path}/mine.py:Mine", f"{tmp_path}/mine.py:solve"
    check(load_config(values={"env": env, "agent": agent, "device": "cpu"}))
    with pytest.raises(EnvironmentFailure, match="raised ValueError: never"):
        check(load_config(values={"env": env, "device": "cpu"}))


def test_near_misses_pass():
    looked(begins(("go", {})))
    looked(begins(("go", {}), action_space=gymnasium.spaces.Text(10)))
    looked(begins(("go", {}), count=lambda self, split: 1))
    looked(begins(("go", {}), count=lambda self, split: None))
    looked(begins(("go", {}), count=lambda self, split: int(split == "train")), problems=0)
    looked(begins(("go", {}), count=lambda self, split: int(split == "test")), training=False)


def test_a_reset_that_hangs():
    freed = threading.Event()
    env = begins(("go", {}), reset=lambda self, **given: freed.wait())
    with pytest.raises(EnvironmentFailure, match=r"has not returned after 2 s .*test_first_look.py"):
        looked(env, time_limit=2)
    freed.set()


@pytest.mark.parametrize("value", [("go", {}), ValueError("broken")])
def test_what_was_looked_at_is_closed(value: Any):
    """Else a session of a server, or a browser, would be kept for the run, which makes its own."""
    closed: list[Any] = []
    env = begins(value, close=lambda self: closed.append(self))
    if isinstance(value, Exception):
        with pytest.raises(EnvironmentFailure):
            looked(env)
    else:
        looked(env)
    assert closed == [env]


def test_a_close_that_raises_ends_no_run(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    looked(begins(("go", {}), close=lambda self: [][0]))
    assert "environment 'made': close raised IndexError" in caplog.text


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("training", [True, False])
def test_games_of_gymnasium(name: str, training: bool):
    with pytest.raises(UserError, match=f"gym-text-v1 env_options.env={name} --agent multi-turn"):
        check(load_config(values={"env": name, "device": "cpu"}), training)
    check(load_config(values={"env": "gym-text-v1", "env_options.env": name, "device": "cpu"}), training)


def test_a_member_of_a_mixture_is_looked_at(tmp_path: Path):
    (tmp_path / "m.yaml").write_text("mixture: [{env: math-v1, weight: 9}, {env: CartPole-v1}]")
    with pytest.raises(UserError, match="environment 'CartPole-v1': its observations are"):
        check(load_config(values={"env": str(tmp_path / "m.yaml"), "device": "cpu"}))


def dry_run(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(["train", "--env", "math-v1", "--device", "cpu", "--dry-run", f"env_options.data={data}", *more])
    said = capsys.readouterr()
    return exit.value.code, said.out, said.err


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10])
def test_few_rows(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i}?", "answer": f"{i}"}) + "\n" for i in range(count)))
    code, out, error = dry_run(data, capsys)
    if count == 1:
        assert code == 2
        assert "has no held-out problems; add some (env_options.test_data" in error
        assert error.count("\n") == 1
        code, out, _ = dry_run(data, capsys, "evaluation.problems=0")
    assert code == 0
    assert f"# {data}: read as rows of problem and answer: " in out


def test_held_out_problems_that_are_trained_on_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i}?", "answer": f"{i}"}) + "\n" for i in range(40)))
    _, out, _ = dry_run(data, capsys, f"env_options.test_data={data}")
    assert "# warning: 40 of the 40 held-out problems are also training problems" in out
    assert "warning" not in dry_run(data, capsys)[1]
