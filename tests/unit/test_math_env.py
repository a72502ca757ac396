"""``math-v1`` as a Gymnasium environment, and what it says to bad data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

import areal
from areal.envs import arithmetic
from areal.envs.text import UnicodeText
from areal.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
assert areal.__version__  # importing areal is what makes math-v1 known


@pytest.fixture
def env():
    made = gymnasium.make("math-v1")
    yield made
    made.close()


def test_check_env_has_nothing_to_say(env: gymnasium.Env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_reset_is_deterministic(env: gymnasium.Env):
    assert env.reset(seed=5) == env.reset(seed=5)
    assert env.reset(seed=5) != env.reset(seed=6)
    options = {"index": 3, "split": "test"}
    assert env.reset(seed=1, options=options) == env.reset(seed=2, options=options)


@pytest.mark.parametrize("difficulty", arithmetic.DIFFICULTIES)
def test_right_and_wrong_answers(difficulty: int):
    env = gymnasium.make("math-v1", difficulty=difficulty)
    for index in range(20):
        env.reset(options={"index": index, "split": "test"})
        answer = arithmetic.problem("test", difficulty, index).answer
        _, reward, terminated, truncated, info = env.step(f"It is \\boxed{{{answer}}}.")
        assert (reward, terminated, truncated) == (1.0, True, False)
        assert info["reward_parts"] == {"correct": 1.0}
        env.reset(options={"index": index, "split": "test"})
        assert env.step(f"\\boxed{{{answer + 1}}}")[1] == 0.0


def test_the_answer_is_nowhere_to_be_seen(env: gymnasium.Env):
    for index in range(50):
        observation, info = env.reset(options={"index": index})
        problem = arithmetic.problem("train", 3, index)
        left = observation.replace(problem.expression, "")
        assert str(problem.answer) not in left + json.dumps({**info, "index": None})
        judged = env.step("?")
        assert (judged[0], judged[4].pop("expected")) == ("", str(problem.answer)), "it is over"
        assert str(problem.answer) not in json.dumps(judged[4])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_action_is_survived(text: str):
    env = gymnasium.make("math-v1")
    env.reset(seed=0)
    assert env.step(text)[1] in (0.0, 1.0)


def test_random_actions_are_survived(env: gymnasium.Env):
    env.action_space.seed(0)
    for seed in range(50):
        env.reset(seed=seed)
        observation, reward, *_ = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert reward == 0.0


def test_stock_wrappers_work(env: gymnasium.Env):
    wrapped = RecordEpisodeStatistics(TimeLimit(env, 5))
    wrapped.reset(seed=0)
    info = wrapped.step("\\boxed{1}")[4]
    assert info["episode"]["l"] == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec(mode: str):
    vector = gymnasium.make_vec("math-v1", num_envs=3, vectorization_mode=mode)
    try:
        observations, _ = vector.reset(seed=7)
        single = gymnasium.make("math-v1")
        assert list(observations) == [single.reset(seed=7 + i)[0] for i in range(3)]
        observations, rewards, terminated, _, info = vector.step(("é𝄞 \\boxed{1/2}",) * 3)
        assert list(observations) == ["", "", ""]
        assert list(rewards) == [0.0, 0.0, 0.0]
        assert all(terminated)
        assert list(info["reward_parts"]["correct"]) == [0.0, 0.0, 0.0]
        observations, *_ = vector.step(("",) * 3)  # resets by itself
        assert all(o.startswith("Compute") for o in observations)
    finally:
        vector.close()


@given(st.text(max_size=40))
def test_space_holds_and_flattens_any_text(text: str):
    space = UnicodeText(64)
    assert text in space
    flat = gymnasium.spaces.flatten(space, text)
    assert flat in gymnasium.spaces.flatten_space(space)
    assert gymnasium.spaces.unflatten(space, flat) == text


def test_space_samples_are_its_own():
    space = UnicodeText(1000, seed=1)
    samples = [space.sample() for _ in range(200)]
    assert all(s in space and s.isascii() for s in samples)
    assert "x" * 1001 not in space
    assert 3 not in space
    assert space == UnicodeText(1000) != UnicodeText(999)


def test_splits_are_disjoint():
    train = {arithmetic.problem("train", 2, i).expression for i in range(3000)}
    test = {arithmetic.problem("test", 2, i).expression for i in range(500)}
    assert not train & test


def test_step_before_reset(env: gymnasium.Env):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step("1")


# --- data ------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[object]) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def test_local_data(tmp_path: Path):
    rows = [
        {"question": "1+1?", "answer": "easy\n#### 2"},
        {"problem": "Half of $1$?", "solution": r"It is $\boxed{\frac{1}{2}}$."},
        {"prompt": "six", "answer": 6},
    ]
    data = write(tmp_path / "d.jsonl", rows)
    env = gymnasium.make("math-v1", data=data, test_data=data, prompt="Q: {problem} {{box}}")
    expected = ["2", "0.5", "6.0"]
    assert env.unwrapped.count("train") == env.unwrapped.count("test") == 3
    for index, answer in enumerate(expected):
        observation, _ = env.reset(options={"index": index})
        assert observation.startswith("Q: ")
        assert observation.endswith("{box}")
        assert env.step(f"\\boxed{{{answer}}}")[1] == 1.0


def test_one_file_is_split_by_content(tmp_path: Path):
    rows = [{"problem": f"{i}?", "answer": str(i)} for i in range(300)]
    forward = gymnasium.make("math-v1", data=write(tmp_path / "a.jsonl", rows)).unwrapped
    backward = gymnasium.make("math-v1", data=write(tmp_path / "b.jsonl", rows[::-1])).unwrapped
    assert forward.count("train") + forward.count("test") == 300
    assert 10 <= forward.count("test") <= 60

    def questions(env):
        return {env.reset(options={"index": i, "split": "test"})[0] for i in range(env.count("test"))}

    assert questions(forward) == questions(backward)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2, column 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"answer": "3"}, "line 2: none of the keys problem, question, prompt"),
        ({"problem": "3?"}, "line 2: none of the keys answer, solution, response"),
        ({"problem": "3?", "answer": "several\nlines"}, "line 2: no final answer"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: object, complaint: str):
    data = write(tmp_path / "d.jsonl", [{"problem": "1?", "answer": "1"}, line])
    with pytest.raises(UserError) as caught:
        gymnasium.make("math-v1", data=data)
    assert f"{data}, {complaint}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path):
    for content, complaint in ((b"", "is empty"), (b'{"problem": "\xff"}\n', "not UTF-8")):
        path = tmp_path / "d.jsonl"
        path.write_bytes(content)
        with pytest.raises(UserError, match=complaint):
            gymnasium.make("math-v1", data=str(path))
    with pytest.raises(UserError, match="does not exist"):
        gymnasium.make("math-v1", data=str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"difficulty": 9}, "difficulty=9"),
        ({"split": "valid"}, "split='valid'"),
        ({"prompt": "no place"}, "does not contain"),
        ({"prompt": "{problem} {box}"}, "not a valid template"),
    ],
)
def test_bad_options(options: dict[str, object], complaint: str):
    with pytest.raises(UserError, match=complaint):
        gymnasium.make("math-v1", **options)


def test_bad_reset_options(env: gymnasium.Env):
    with pytest.raises(UserError, match="-1 is not one of them"):
        env.reset(options={"index": -1})
    with pytest.raises(UserError, match="split='x'"):
        env.reset(options={"split": "x"})


@pytest.mark.skipif(not DATA.is_dir(), reason="benchmark files are not here")
@pytest.mark.parametrize(("file", "count"), [("gsm8k_test", 1319), ("math500", 500), ("aime24", 30)])
def test_benchmark_files_are_understood(file: str, count: int):
    env = gymnasium.make("math-v1", data=str(DATA / f"{file}.jsonl"), test_data=str(DATA / f"{file}.jsonl"))
    assert env.unwrapped.count("test") == count
