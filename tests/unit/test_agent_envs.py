"""Environments of several turns, puzzles, and the adapters to other collections."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import areal
from areal.agents.calculator import calculator
from areal.agents.python_tool import HINT
from areal.agents.tools import ToolBox
from areal.authoring import check
from areal.envs import guess
from areal.envs.code_blocks import code_block
from areal.envs.countdown import CountdownEnv, problem
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.registry import load_object, make_env
from areal.rewards.answers import boxed_answer
from areal.rewards.expressions import numbers, value
from areal.rollout.rendering import Renderer, eos_ids

assert areal.__version__  # importing areal is what makes its environments known


FILES = {
    "data.yaml": "data: rows.jsonl\nprompt: '{question}'\nanswer: '{label}'\nverifier: number\n",
    "mixture.yaml": "mixture: [{env: countdown-v1, weight: 2}, {env: guess-v1}, {env: data.yaml}]\n",
    "rows.jsonl": "".join(f'{{"question": "Twice {n} is?", "label": "{2 * n}"}}\n' for n in range(111, 191)),
}


SHIPPED = ["math-v1", "guess-v1", "countdown-v1", "gym-text-v1", "reasoning-gym-v1", *list(FILES)[:2]]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_keeps_the_rules(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    # These two take long: huge powers have the whole time limit of the verifier.
    left_out = {"throughput", "hostile actions" if name == "math-v1" else ""}
    rules = {name: rule for name, rule in check.RULES.items() if name not in left_out}
    findings = check.check_env(lambda: make_env(name), rules=rules)
    missed = [finding for finding in findings if finding.verdict != "passed"]
    # Only math-v1 tells its solutions; of the others that rule says that it knows none.
    unknown = [] if name == "math-v1" else [("solutions", "not checked")]
    assert [(finding.rule, finding.verdict) for finding in missed] == unknown, list(map(str, missed))
    assert len(findings) == len(rules)


@given(st.integers(0, 2**31), st.integers(2, 99))
def test_who_halves_what_is_left_always_finds_the_number(seed: int, count: int):
    env = gymnasium.make("guess-v1", numbers=count, max_turns=math.ceil(math.log2(count + 1)))
    observation, info = env.reset(seed=seed)
    low, high = info["low"], info["high"]
    assert f"from {low} to {high}" in observation
    assert high - low == count - 1
    over = False
    while not over:
        guess = (low + high) // 2
        observation, reward, over, _, _ = env.step(f"\\boxed{{{guess}}}")
        low, high = (guess + 1, high) if "greater" in observation else (low, guess - 1)
    assert reward == 1.0


def test_a_guess_that_is_none_costs_a_turn():
    env = gymnasium.make("guess-v1", max_turns=2)
    env.reset(seed=0)
    assert env.step("seven")[0] == "That is not a number. Put a number in \\boxed{}."
    assert env.step("\\boxed{-1}")[1:3] == (0.0, True)
    fixed = gymnasium.make("guess-v1", numbers=8, low=3)
    assert {fixed.reset(seed=i)[0] for i in range(9)} == {guess.opening(3, 10)}
    for options in ({"numbers": 1}, {"numbers": 100}, {"max_turns": 0}, {"low": 0}, {"low": 85}):
        with pytest.raises(UserError, match="guess-v1"):
            gymnasium.make("guess-v1", **options)


def test_a_wrong_answer_is_said_to_be_wrong_and_the_last_one_counts():
    env = gymnasium.make("math-v1", max_turns=2)
    question, _ = env.reset(seed=0)
    again, reward, over, _, info = env.step("\\boxed{99999}")
    assert again == f"The answer is not correct. Try again.\n{question}"
    assert (reward, over, info["reward_parts"]) == (0.0, False, {"correct": 0.0})
    right = int(eval(question.split("Compute ")[1].split(".")[0]))
    assert env.step(f"\\boxed{{{right}}}")[1:3] == (1.0, True)
    env.reset(seed=0)
    env.step("no")
    assert env.step("no")[1:3] == (0.0, True)


TREE = st.recursive(
    st.integers(0, 99).map(str),
    lambda part: st.builds("({} {} {})".format, part, st.sampled_from("+-*/"), part),
    max_leaves=20,
)


@given(TREE)
def test_the_value_of_an_expression_is_exact(text: str):
    exact = "".join(f"Fraction({c})" if c.isdigit() else c for c in _spaced(text))
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="zero"):
            value(text)
        return
    assert value(text) == expected
    assert numbers(text) == sorted(int(c) for c in _spaced(text) if c.isdigit())


def _spaced(text: str) -> list[str]:
    for sign in "()+-*/":
        text = text.replace(sign, f" {sign} ")
    return text.split()


NONE = ["", "x", "2 ** 99", "1.5", "f()", "True", "1; 2", "(" * 90, "1 +", "'a' * 9", "1" * 201]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_expression_is_said(text: str):
    with pytest.raises(ValueError, match="expression"):
        value(text)


@given(st.integers(0, 10**9), st.integers(2, 4), st.sampled_from(["train", "test"]))
def test_countdown_has_a_solution_and_takes_it_only_with_each_number_once(index: int, size: int, split: str):
    given_numbers, target = problem(split, size, index)
    env = CountdownEnv(size)
    observation, _ = env.reset(options={"index": index, "split": split})
    assert f"Make {target} from {', '.join(map(str, given_numbers))}," in observation
    solution = _solve([(Fraction(n), str(n)) for n in given_numbers], target)
    assert solution is not None
    wrong = (f"{solution} + 0", str(target), "", "x")
    for answer, reward in ((solution, 1.0), *((answer, 0.0) for answer in wrong)):
        env.reset(options={"index": index, "split": split})
        assert env.step(f"\\boxed{{{answer}}}")[1:3] == (reward, True)


def _solve(parts: list[tuple[Fraction, str]], target: int) -> str | None:
    if len(parts) == 1:
        return parts[0][1] if parts[0][0] == target else None
    for i, (a, left) in enumerate(parts):
        for j, (b, right) in enumerate(parts):
            if i == j:
                continue
            rest = [p for k, p in enumerate(parts) if k not in (i, j)]
            for found, sign in ((a + b, "+"), (a - b, "-"), (a * b, "*")):
                solved = _solve([*rest, (found, f"({left} {sign} {right})")], target)
                if solved is not None:
                    return solved
    return None


def test_any_gymnasium_environment_can_be_played_in_words():
    lake: dict[str, Any] = {"env": "FrozenLake-v1", "options": {"is_slippery": False, "map_name": "4x4"}}
    names = ["Left", "Down", "Right", "Up"]
    env = gymnasium.make("gym-text-v1", **lake, actions=names, task="Cross the lake.")
    observation, _ = env.reset(seed=0)
    assert observation.startswith("Cross the lake.\n")
    assert observation.split("\n")[1:5] == ["[S]FFF", "FHFH", "FFFH", "HFFG"]
    assert observation.endswith("Put one of these in \\boxed{}: left, down, right, up.")
    assert env.step("down")[0].startswith("That is not an action.")
    moves = ["Down", "down", "right", "right", "down", "right"]
    steps = [env.step(f"\\boxed{{{move}}}") for move in moves]
    assert [s[1] for s in steps] == [0.0] * 5 + [1.0]
    assert [s[2] for s in steps] == [False] * 5 + [True]
    env = gymnasium.make("gym-text-v1", env="CartPole-v1", max_turns=2)
    env.reset(seed=0)
    assert env.step("\\boxed{1}")[1:4] == (1.0, False, False)
    assert env.step("\\boxed{0}")[1:4] == (1.0, False, True)
    for options, complaint in (
        ({"env": "No-v1"}, "gym-text-v1: unknown environment 'No-v1'.* give its module, too: MODULE:No-v1"),
        ({"env": "CartPole-v1", "describe": "words"}, "describe=words is not of the form"),
        ({"env": "CartPole-v1", "describe": "math:pi"}, "describe=math:pi is not a function"),
        ({"env": "CartPole-v1", "describe": "math:words"}, "math has no 'words'"),
        ({"env": "CartPole-v1", "options": {"size": 5}}, "has no option 'size'"),
        ({"env": "FrozenLake-v1", "actions": ["a", "a", "b", "c"]}, "4 actions"),
        ({"env": "Pendulum-v1"}, "must be Discrete or Text"),
    ):
        with pytest.raises(UserError, match=complaint):
            gymnasium.make("gym-text-v1", **options)


GRID = """
import enum
import gymnasium
import numpy as np


class Moves(enum.IntEnum):
    west = 0
    east = 1
    stay = 2


class Grid(gymnasium.Env):
    metadata = {"render_modes": [], "isolation": "process"}
    actions = Moves
    observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 9, (8, 8), int)})

    def __init__(self, moves: int = 3) -> None:
        self.action_space = gymnasium.spaces.Discrete(moves)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 3
        return self.seen(), {}

    def step(self, action):
        self.place += {0: -1, 1: 1, 2: 0}[action]
        return self.seen(), 0.0, False, False, {}

    def seen(self):
        return {"image": np.eye(8, dtype=int) * self.place}


gymnasium.register(id="TextGrid-v0", entry_point=Grid)


def describe(observation, env):
    return f"place {observation['image'][0, 0]}, {type(env).__name__}"


def numbers(observation, env):
    return observation["image"]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "grid.py"
    file.write_text(GRID)
    yield file
    gymnasium.registry.pop("TextGrid-v0", None)  # else it is sent to the processes of other tests


def test_observations_that_are_no_text_are_described(grid: Path):
    file = grid
    for name in (f"{file}:Grid", f"{file}:TextGrid-v0"):
        env = make_env("gym-text-v1", env=name, describe=f"{file}:describe")
        assert env.reset(seed=0)[0].split("\n")[1:] == ["place 3, Grid", f"{BOXED}west, east, stay."]
        assert env.step("\\boxed{East}")[0].split("\n")[0] == "place 4, Grid"
        assert env.unwrapped.warnings == ()
        assert env.metadata["isolation"] == "process"
    plain = make_env("gym-text-v1", env=f"{file}:Grid")
    assert "have an array of 64 numbers, which a model cannot interpret" in plain.unwrapped.warnings[0]
    with pytest.raises(TypeError, match="describe returned a ndarray; return text"):
        make_env("gym-text-v1", env=f"{file}:Grid", describe=f"{file}:numbers").reset(seed=0)
    with pytest.raises(UserError, match="registers no environment 'TextGrit-v0'; did you mean 'TextGrid-v0'"):
        make_env(f"{file}:TextGrit-v0")


@pytest.mark.parametrize(("moves", "names"), [(2, "west, east"), (3, "west, east, stay"), (4, "0, 1, 2, 3")])
def test_actions_have_the_environment_s_own_names_where_it_has_one_for_each(
    moves: int, names: str, grid: Path
):
    options = {"env": f"{grid}:Grid", "options": {"moves": moves}}
    assert make_env("gym-text-v1", **options).reset(seed=0)[0].endswith(f"{BOXED}{names}.")
    own = [f"go {i}" for i in range(moves)]
    given = make_env("gym-text-v1", **options, actions=own).reset(seed=0)[0]
    assert given.endswith(f"{BOXED}{', '.join(own)}.")


BOXED = "Put one of these in \\boxed{}: "


def test_small_vectors_are_read_as_they_are():
    assert make_env("gym-text-v1", env="CartPole-v1").unwrapped.warnings == ()


def test_minigrid_in_words():
    pytest.importorskip("minigrid", reason="minigrid is not installed")
    describe = "areal.envs.minigrid:describe"
    env = make_env("gym-text-v1", env="minigrid:MiniGrid-DoorKey-5x5-v0", describe=describe)
    shown = env.reset(seed=0)[0].split("\n")[2:]
    assert shown == [
        "You face west and carry nothing.",
        "You see, in steps: a yellow key 1 to the right; a wall 1 ahead; a wall 1 to the left; "
        "a wall 3 to the right.",
        f"{BOXED}left, right, forward, pickup, drop, toggle, done.",
    ]
    for move in ("right", "pickup", "forward", "right"):
        shown = env.step(f"\\boxed{{{move}}}")[0].split("\n")
    assert "You face east and carry a yellow key." in shown
    assert "a locked yellow door 1 ahead and 1 to the left" in shown[2]
    env.step("\\boxed{left}")
    env.step("\\boxed{forward}")
    env.step("\\boxed{right}")
    assert "an open yellow door 1 ahead;" in env.step("\\boxed{toggle}")[0]


def test_reasoning_gym_s_questions_and_scores():
    env = gymnasium.make("reasoning-gym-v1", dataset="chain_sum", size=20, options={"max_terms": 2})
    assert (env.unwrapped.count("train"), env.unwrapped.count("test")) == (20, 20)
    questions = {
        split: [env.reset(options={"index": i, "split": split})[0] for i in range(20)]
        for split in ("train", "test")
    }
    assert questions["train"] != questions["test"]
    expression = questions["test"][-1].split("problem: ")[1].split(" =")[0]
    assert env.step(f"\\boxed{{{eval(expression)}}}")[1] == 1.0
    env.reset(options={"index": 0, "split": "test"})
    assert env.step("no answer")[1] == 0.0
    with pytest.raises(UserError, match="'no_such'"):
        gymnasium.make("reasoning-gym-v1", dataset="no_such")


def test_the_starter_is_taught_the_words_that_the_environments_and_agents_say():
    """Its third stage of training: each turn is one of a game, or of python-tool on a training problem."""
    script = load_object(
        f"{Path(areal.__file__).absolute().parents[1]}/scripts/train_starter.py:agents_example"
    )
    tasks = gymnasium.make("math-v1", difficulty=3)
    opening = tasks.reset(options={"index": 0, "split": "train"})[0]
    shape = re.sub(r"Compute .*\.", "Compute E.", opening) + HINT
    rng = random.Random(0)
    games = tools = 0
    for index in range(60):
        example, _ = script(index, rng, 1.0)
        first = (*example.before, example.question)[0]
        if "Guess" in first:
            games += 1
            low, high = map(int, re.findall(r"\d+", first))
            assert first == guess.opening(low, high)
            for answer in (example.answer, example.lapse):
                assert low <= int(boxed_answer(answer) or "") <= high
            continue
        tools += 1
        assert re.sub(r"Compute .*\.\n", "Compute E.\n", first, count=1) == shape
        code = code_block(example.before[1] if example.before else example.answer)
        expected = eval(code or "")
        if example.before:
            assert example.question == str(expected)
            assert example.answer == f"\\boxed{{{expected}}}"
        else:
            assert example.lapse == f"\\boxed{{{expected}}}"
    assert games > 10
    assert tools > 10


def test_the_tool_calls_that_the_starter_is_taught_are_those_that_tool_use_makes_and_hears():
    script = f"{Path(areal.__file__).absolute().parents[1]}/scripts/train_starter.py"
    solved_example, prompt = (load_object(f"{script}:{name}") for name in ("solved_example", "prompt"))
    tokenizer = load_tokenizer(resolve_model("starter"))
    tokenizer.chat_template = load_object(f"{script}:TOOLS_TEMPLATE")
    renderer, box = Renderer(tokenizer, eos_ids(tokenizer)), ToolBox([calculator])
    for index in range(20):
        example, _ = solved_example("call", index, random.Random(index), 0.0)
        asked, call = (*example.before, example.question, example.answer)[:2]
        (expression,) = re.findall(r"Compute (.*)\.", asked)
        heard = renderer.response(tokenizer.encode(call), "", box.schemas)
        assert (heard.words, heard.calls) == ("", [("calculator", {"expression": expression})])
        history = [{"role": "user", "content": asked}]
        opening = renderer.opening(history, box.schemas)
        if not example.before:
            assert prompt(tokenizer, example) == opening.text
            continue
        assert example.question == calculator(expression)
        history += [{"role": "assistant", "content": call}, {"role": "tool", "content": example.question}]
        heard = renderer.continuation(opening.text, call, tokenizer.eos_token_id, history, box.schemas)
        assert heard is not None
        assert prompt(tokenizer, example) == heard.text
