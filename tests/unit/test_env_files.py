"""Environments from data alone, and mixtures of environments: as YAML files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from dummy_batches import batch
from hypothesis import given
from hypothesis import strategies as st

from areal.agents.interface import Env, Model
from areal.authoring import check
from areal.envs.from_data import DataEnv
from areal.envs.mixture import MixtureEnv, pattern, turn
from areal.errors import UserError
from areal.registry import env_label, make_env
from areal.rewards.verifiers import exact, number
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import run_episode
from areal.runtime.accounting import StepAccount
from areal.spans import Span
from areal.trajectory import Batch, Episode, Group


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"question": f"{i} and {i} are?", "label": 2 * i, "tags": ["a"]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text("def near(action, expected):\n    return 0.5 if action else None\n")
    return tmp_path


def write(folder: Path, text: str, name: str = "my.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


DATA = """
data: rows.jsonl
prompt: "Q: {question} In {{braces}}."
answer: "{label}"
verifier: number
rewards: {correct: 1.0, format: 0.25}
"""


def test_data_alone(folder: Path):
    name = write(folder, DATA)
    env = make_env(name)
    assert env_label(name) == "my"
    assert env.unwrapped.count("train") + env.unwrapped.count("test") == 60
    observation, info = env.reset(options={"index": 3, "split": "test"})
    half = observation.split()[1]
    assert observation == f"Q: {half} and {half} are? In {{braces}}."
    assert info == {"split": "test", "index": 3}
    answers = {f"It is {2 * int(half)}.0": 1.25, f"{2 * int(half)} or 7,000": 0.25, "no idea": 0.0}
    for answer, reward in answers.items():
        env.reset(options={"index": 3, "split": "test"})
        assert env.step(answer)[1] == reward
    # Beside other options, the file's own can be given anew; and a function of one's own judges.
    judged = make_env(name, verifier=f"{folder}/judge.py:near", rewards=None)
    judged.reset(seed=0)
    assert judged.step("x")[1] == 0.5
    rules = {n: check.RULES[n] for n in (check.FIRST, "determinism", "hidden answers", "hostile actions")}
    findings = check.check_env(lambda: make_env(name), rules=rules)
    assert [str(f) for f in findings if f.verdict != "passed"] == []
    assert "rows.jsonl: 56 training problems" in findings[0].message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("data: [", "my.yaml, line 1: not valid YAML"),
        ("just text", "a mapping of options"),
        ("prompt: '{question}'", "requires the option 'data'"),
        ("data: none.jsonl", "none.jsonl does not exist"),
        (DATA.replace("verifier", "verifyer"), "no option 'verifyer'; did you mean 'verifier'"),
        (DATA.replace("number", "nunber"), "unknown verifier 'nunber'; did you mean 'number'"),
        (DATA.replace("{label}", "{lable}"), "rows.jsonl, line 1: the answer needs {lable}.*question, label"),
        (DATA.replace("{question}", "{question"), "is not a valid template"),
        (DATA.replace("format:", "formal:"), "unknown part of a reward 'formal'"),
        ("env: math-v3", "unknown environment 'math-v3'"),
        ("mixture: []", "a list of members"),
        ("mixture: [{env: math-v1, wight: 2}]", "no key 'wight'; did you mean 'weight'"),
        ("mixture: [{env: math-v1, weight: 0.5}]", "weight=0.5 of 'math-v1' is not a whole number"),
        ("mixture: [{env: math-v1}, {env: math-v1}]", "two members have the name 'math-v1'"),
        ("mixture: [{env: math-v1, options: {difficulty: 9}}]", "difficulty=9"),
    ],
)
def test_bad_files(folder: Path, text: str, complaint: str):
    with pytest.raises(UserError, match=complaint) as caught:
        make_env(write(folder, text))
    assert "\n" not in str(caught.value)


def test_another_environment_with_options(folder: Path):
    env = make_env(write(folder, "env: math-v1\ndifficulty: 1\nprompt: 'P {problem}'"))
    assert (
        env.reset(options={"index": 0})[0]
        == "P " + make_env("math-v1", difficulty=1, prompt="{problem}").reset(options={"index": 0})[0]
    )


MIXTURE = """
mixture:
  - {env: math-v1, weight: 3, options: {difficulty: 1}}
  - {env: my.yaml}
"""


def test_a_mixture(folder: Path):
    write(folder, DATA)
    env = make_env(write(folder, MIXTURE, "both.yaml"))
    # Held-out: 3 to 1, and none of the 60 rows' held-out ones twice.
    size = make_env(str(folder / "my.yaml")).unwrapped.count("test")
    count = env.unwrapped.count("test")
    seen = [env.reset(options={"index": i, "split": "test"}) for i in range(count)]
    assert Counter(info["env"] for _, info in seen)["my"] == size
    assert len({text for text, info in seen if info["env"] == "my"}) == size
    assert env.reset(options={"index": count, "split": "test"})[1]["env"] == "my", (
        "the next one would be the first again"
    )
    seen = [env.reset(options={"index": i, "split": "train"}) for i in range(4 * (60 - size))]
    assert Counter(info["env"] for _, info in seen) == {"math-v1": 3 * (60 - size), "my": 60 - size}
    assert len({text for text, info in seen if info["env"] == "my"}) == 60 - size, "each row once in an epoch"
    text, info = next(s for s in seen if s[1]["env"] == "my")
    env.reset(options={"index": info["index"], "split": "train"})
    assert env.step(str(2 * int(text.split()[1])))[4]["reward_parts"] == {"correct": 1.0, "format": 0.25}


def test_easy_ones_first():
    members = [
        {"env": "math-v1", "name": "easy"},
        {"env": "math-v1", "name": "hard", "weight": 2, "after": 10},
    ]
    env = MixtureEnv(members)
    names = [env.reset(options={"index": 5 * 2**25 + i})[1]["env"] for i in range(40)]
    assert names[:10] == ["easy"] * 10
    assert Counter(names[10:]) == {"easy": 10, "hard": 20}
    assert "hard" in [env.reset(options={"index": i, "split": "test"})[1]["env"] for i in range(3)]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_every_turn_is_a_member_s_next(members: list[tuple[int, int]], seed: int):
    """Each member's problems are counted without a gap, from the seed's own range on."""
    weights, joins = zip(*members, strict=True)
    base, met = seed * 2**25, Counter()
    for position in range(120):
        place, number = turn(base + position, weights, joins)
        assert number == base + met[place]
        assert joins[place] - min(joins) <= position
        met[place] += 1
    round_ = pattern(weights)
    assert [round_.count(place) for place in range(len(weights))] == list(weights)


async def test_metrics_of_each_environment(folder: Path):
    """From ``info["env"]`` to the metrics of a step; one that is no mixture has none."""
    write(folder, DATA)
    pool = EnvironmentPool(lambda: make_env(write(folder, MIXTURE, "both.yaml")), 1)

    class Judge:
        reward, parts, players, sees = 0.0, {}, {}, False

        def __init__(self) -> None:
            self.spans: list[Span] = []

        def set_opening(self, messages: list[object]) -> None:
            assert messages == []

        def credit(self, reward: float, parts: dict[str, float] | None) -> None:
            self.reward += reward

        def trajectories(self) -> list[object]:
            return batch(0).trajectories[:1]

    class Echo:
        async def run(self, env: Env, model: Model) -> None:
            await env.step(await env.reset())

    tasks = [{"options": {"index": i, "split": "train"}} for i in range(8)]
    members = [await run_episode(Echo(), pool, task, Judge()) for task in tasks]
    await pool.close()
    made = Batch(0, [Group(0, 0, members)])
    metrics = StepAccount(0.0, 0).close(made, 1.0, {}, 1.0, 10)
    assert {name: metrics[f"env/{name}/share"] for name in ("math-v1", "my")} == {"math-v1": 0.75, "my": 0.25}
    assert metrics["env/my/reward"] == 0.25, "an echo has a number"
    assert metrics["env/math-v1/reward"] == 0.0
    assert Episode.from_json(members[0].to_json()).env == members[0].env
    assert not any(name.startswith("env/") for name in StepAccount(0.0, 0).close(batch(0), 1.0, {}, 1.0, 10))


def test_named_verifiers():
    assert number("so 1,000.50 it is", "1000.5") == 1.0
    assert number("12 or 13", "12") == 0.0
    assert number("about 4.5 × 10³³ erg/s", "4.5e33") == number(r"$4.5 \times 10^{33}$", "4.5e+33") == 1.0
    assert number("1e3", "1000") == number("−3", "-3") == 1.0
    assert number("1e3", "3") == number(r"4.5 \times 10^{32}", "4.5e33") == number("1e4", "1e3") == 0.0
    assert number("none", "12") is None
    assert number("9" * 5000, "9") is None
    assert exact(" yes\n", "yes") == 1.0
    assert exact("yes.", "yes") == 0.0
    assert exact(" ", "") is None


@pytest.mark.parametrize("said", ["-0.1", "1.5", "nan"])
def test_a_score_of_a_verifier_is_from_0_to_1(tmp_path, said):
    (tmp_path / "sums.jsonl").write_text(
        '{"problem": "1 + 1", "answer": "2"}\n{"problem": "1 + 2", "answer": "3"}\n'
    )
    (tmp_path / "own.py").write_text("def score(words, expected):\n    return float(words)\n")
    env = DataEnv(f"{tmp_path}/sums.jsonl", verifier=f"{tmp_path}/own.py:score")
    for words in ("0", "0.5", "1"):
        env.reset(seed=0)
        assert env.step(words)[1] == float(words)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"own\.py:score' returned {said}, but a score must be from 0 to 1"):
        env.step(said)
