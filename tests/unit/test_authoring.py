"""For authors of environments: the package that is written, what the checks find, trying, describing."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
import pytest

from areal.agents.interface import Env, Model, Step, Tool
from areal.authoring import check, commands
from areal.authoring.check import Finding, check_env
from areal.authoring.describe import describe
from areal.authoring.guesses import choices_in
from areal.authoring.play import Show, ShownAgent, play_person
from areal.authoring.scaffold import write_package
from areal.cli import main
from areal.envs.text import UnicodeText
from areal.errors import UserError
from areal.registry import env_label, find_agent, find_env, make_env, register_env


class Good(gymnasium.Env[str, str]):
    """Asks for a sum; the answer is all of the action."""

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)
    shared = ""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = UnicodeText(1000)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode

    def count(self, split: str) -> int:
        return 300

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.split, index = (options or {}).get("split", "train"), (options or {}).get("index")
        index = int(self.np_random.integers(300)) if index is None else index
        self.draw = random.Random(f"{self.split}{index}")
        a, b = self.numbers()
        self.expected = str(a + b)
        return self.prompt(a, b), self.info()

    def step(self, action: str):
        reward = self.score(action)
        return "", reward, True, False, {"reward_parts": self.parts(reward)}

    def numbers(self) -> tuple[int, int]:
        a = 2 * self.draw.randrange(1000) + (self.split == "test")
        return a, self.draw.randrange(1000, 2000)

    def prompt(self, a: int, b: int) -> str:
        return f"{a} + {b} is?"

    def info(self) -> dict[str, Any]:
        return {}

    def score(self, action: str) -> float:
        return float(action == self.expected)

    def parts(self, reward: float) -> Any:
        return {"correct": reward}


class Known(Good):
    def solution(self) -> str:
        return self.expected


def broken(name: str, base: type[Good] = Good, **methods: Any) -> type[Good]:
    return type(name, (base,), methods)


def hang(self: Good, action: str) -> float:
    time.sleep(60)
    return 0.0


def shares(self: Good, a: int, b: int) -> str:
    type(self).shared = str(a + b)
    return Good.prompt(self, a, b)


def judges_shared(self: Good, action: str) -> float:
    time.sleep(1e-4)
    return float(self.shared == self.expected)


def other_space(self: Good, **_: Any) -> None:
    Good.__init__(self)
    self.action_space = gymnasium.spaces.Text(100)


BROKEN: dict[str, tuple[str, Any, list[str]]] = {
    "raises": (
        "hostile actions",
        {"score": lambda self, action: float(int(action) == 3)},
        ["raised ValueError", "test_authoring.py:"],
    ),
    "searches": (
        "hostile actions",
        {
            "prompt": lambda self, a, b: f"{self.draw.random()}",
            "numbers": lambda self: (self.draw.randrange(10, 80), 1),
            "score": lambda self, action: float(self.expected in action),
        },
        ["every number", "earns 1"],
    ),
    "hangs": (
        "rewards",
        {"score": hang},
        ["step('?') has not returned after 0.4 s", "test_authoring.py:", "time limit"],
    ),
    "leaks in info": (
        "hidden answers",
        {"info": lambda self: {"debug": {"target": self.expected}}},
        ["info['debug']['target']", "16 of 16"],
    ),
    "leaks in the observation": (
        "hidden answers",
        {"prompt": lambda self, a, b: f"{a} + {b} (it is {a + b})"},
        ["word 6 of the observation", "16 of 16"],
    ),
    "parts do not sum": (
        "rewards",
        {"parts": lambda self, reward: {"correct": reward, "format": 0.5}},
        ["sum to 0.5", "the reward is 0"],
    ),
    "parts are no numbers": (
        "rewards",
        {"parts": lambda self, reward: {"correct": "yes"}},
        ["names and finite floats"],
    ),
    "a player who earns nothing": (
        "rewards",
        {"info": lambda self: {"player": "north"}, "score": lambda self, action: 1.0},
        ["named the player 'north', but not what each player earned; set info['rewards']"],
    ),
    "no finite reward": ("rewards", {"score": lambda self, action: float("nan")}, ["finite float"]),
    "chance": (
        "determinism",
        {"numbers": lambda self: (random.randrange(10**6), 1)},
        ["returns something different the second time", "np_random"],
    ),
    "one answer for all": (
        "threads",
        {"prompt": shares, "score": judges_shared},
        ["8 threads", "class attributes"],
    ),
    "one problem for both": (
        "separate splits",
        {"numbers": lambda self: (self.draw.randrange(5), 1)},
        ["are also in the train split"],
    ),
    "narrow actions": (
        "honest spaces",
        {"__init__": other_space},
        ["action space does not contain", "UnicodeText"],
    ),
    "long observations": (
        "honest spaces",
        {"prompt": lambda self, a, b: "x" * 2000},
        ["observation outside of", "UnicodeText"],
    ),
    "no text": (
        "honest spaces",
        {"prompt": lambda self, a, b: 3},
        ["observations are of type int", "gym-text-v1", "other rules were not checked"],
    ),
    "no text as action": (
        "honest spaces",
        {"__init__": lambda self, **_: setattr(self, "action_space", gymnasium.spaces.Discrete(2))},
        ["actions are Discrete(2)", "gym-text-v1"],
    ),
    "no solution": ("solutions", {"solution": lambda self: "?"}, ["not more than the answer '?'"]),
    "cannot be made": (
        "can be created",
        {"__init__": lambda self: {}["x"]},
        ["the constructor raised KeyError"],
    ),
}


def failures(findings: list[Finding]) -> dict[str, str]:
    return {finding.rule: finding.message for finding in findings if finding.verdict == "failed"}


def of(*names: str) -> dict[str, Callable[[Any], str]]:
    """The checks of some rules, and the one that comes first."""
    return {name: check.RULES[name] for name in (check.FIRST, *names)}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_named_and_how_to_mend_it(case: str):
    rule, methods, words = BROKEN[case]
    found = failures(check_env(broken("Broken", **methods), 0.4 if case == "hangs" else 30, of(rule)))
    assert list(found) == [rule]
    for word in words:
        assert word in found[rule]
    assert "\n" not in found[rule]


@pytest.mark.parametrize("env", [Good, Known])
def test_a_good_environment_breaks_no_rule(env: type[Good]):
    findings = check_env(env)
    unknown = ["solutions"] if env is Good else []
    assert [f.rule for f in findings if f.verdict == "not checked"] == unknown
    assert [str(f) for f in findings if f.verdict not in ("passed", "not checked")] == []
    assert [f.rule for f in findings] == list(check.RULES)


def test_a_penalty_for_length_reveals_nothing():
    """A short word earns more than a long one, and nothing at all the most."""

    def brief(self: Good, action: str) -> float:
        return float(action == self.expected) - 0.1 * min(1.0, len(action) / 2000)

    names = ("hidden answers", "guesses", "hostile actions")
    assert [f.verdict for f in check_env(broken("Brief", score=brief), rules=of(*names))] == ["passed"] * 4

    def shown(self: Good, a: int, b: int) -> str:
        return f"{a} + {b} is {a + b}, or?"

    assert "hidden answers" in failures(
        check_env(broken("Brief", score=brief, prompt=shown), rules=of(*names))
    )


def sums(self: Good, action: str) -> float:
    return float(sum(range(2 * 10**8)) == 1)  # in native code that lets nobody else compute


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_call_that_keeps_pythons_lock_belongs_in_a_process(isolation: str):
    locks = broken("Locks", score=sums, metadata={"isolation": isolation})
    findings = check_env(locks, rules={**of(), "one step": one_step})
    found = [finding.message for finding in findings if finding.rule == "isolation"]
    assert len(found) == (isolation == "thread")
    if found:
        assert found[0].startswith("step('?') (")
        assert 'metadata = {"isolation": "process"}' in found[0]


@pytest.mark.parametrize(("isolation", "verdict"), [("thread", "failed"), ("process", "not checked")])
def test_what_has_a_process_of_its_own_may_share_what_it_likes_with_itself(isolation: str, verdict: str):
    env = broken("Shares", prompt=shares, score=judges_shared, metadata={"isolation": isolation})
    findings = {finding.rule: finding.verdict for finding in check_env(env, rules=of("threads"))}
    assert findings["threads"] == verdict


def one_step(subject: Any) -> str:
    subject.reset(subject.env, {"seed": 0})
    subject.step(subject.env, "?")
    return ""


LOCKED = """
import ctypes
from areal.authoring.check import RULES, check_env
from areal.envs.guess import GuessEnv

class Locks(GuessEnv):
    def step(self, action):
        ctypes.PyDLL(None).sleep(1000)  # a call that keeps the lock

check_env(Locks, time_limit=2, rules={name: RULES[name] for name in ("can be created", "rewards")})
print("never")
"""


def test_a_call_that_keeps_pythons_lock_for_good_ends_the_check_with_a_line():
    done = subprocess.run([sys.executable, "-c", LOCKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done
    assert done.stdout == ""
    assert done.stderr.startswith("areal: error: step(")
    assert "rollout.env_isolation=process" in done.stderr


def test_what_is_no_environment():
    assert "subclass of gymnasium.Env" in failures(check_env(dict))[check.FIRST]


@pytest.mark.parametrize("observation", [{"a": 1}, 3, None, b"text"])
def test_an_environment_without_text_is_not_blamed_for_more(observation: Any):
    findings = check_env(broken("NoText", prompt=lambda self, a, b: observation))
    assert [(f.rule, f.verdict) for f in findings] == [(check.FIRST, "passed"), ("honest spaces", "failed")]


def test_what_a_check_raises_itself_is_not_the_environments():
    def odd(subject: Any) -> str:
        subject.reset(subject.env, {"seed": 0})
        raise TypeError("mine")

    (_, finding) = check_env(Good, rules={**of(), "odd": odd})
    assert finding.verdict == "not checked"
    assert "the check itself raised TypeError: mine" in finding.message


class Game(Good):
    """Three turns; any word in the right form earns a little, and the right one wins."""

    def reset(self, **given: Any):
        self.turn = 0
        return super().reset(**given)

    def step(self, action: str):
        self.turn += 1
        won = action == self.expected
        reward = 1.0 if won else 0.1 if action.isdigit() else 0.0
        return "no", reward, won or self.turn == 3, False, {"reward_parts": {"move": reward}}


class SolvedGame(Game):
    def solution(self) -> str:
        return self.expected


class Choices(Good):
    """Asks for the letter of one of four numbers, each as often as the others."""

    example, wanted = "such as Answer: X.", "Answer: {}"

    def prompt(self, a: int, b: int) -> str:
        self.expected = self.letter()
        listed = "\n".join(f"{letter}) {a + i}" for i, letter in enumerate("ABCD"))
        return f"What is {a} + {b}?\n{listed}\nAnswer with a letter, {self.example.format(self.expected)}"

    def letter(self) -> str:
        return self.draw.choice("ABCD")

    def score(self, action: str) -> float:
        return float(action == self.wanted.format(self.expected))


def mostly(letter: str, share: float) -> Callable[[Choices], str]:
    return lambda self: letter if self.draw.random() < share else Choices.letter(self)


def in_form(self: Choices, action: str) -> float:
    """A part for a letter of the right form, and the rest for the right letter."""
    return 0.9 * Choices.score(self, action) + 0.1 * (action in [f"Answer: {letter}" for letter in "ABCD"])


def capital(self: Good, a: int, b: int) -> str:
    self.expected = f"San {'Juan' if a % 4 else 'José'} {b}"
    return f"Name a city near {a}. Hint: {self.expected}."


def yes_or_no(self: Good, a: int, b: int) -> str:
    self.expected = self.draw.choice(["yes", "no"])
    return f"Does {a} suit {b}? Answer yes or no."


def quoted(self: Good, a: int, b: int) -> str:
    self.expected = self.draw.choice([f"x{a}", f"y{b}"])
    return f'Which is better, "x{a}" or "y{b}"?'


def last_line(self: Good, a: int, b: int) -> str:
    return f"{a} + {b} is?\n{a} of {b}\nit is {self.expected}"


@pytest.mark.parametrize(
    ("base", "methods", "words"),
    [
        (
            Choices,
            {"example": 'such as "Answer: {}".'},
            ["copied, such as 'Answer: ", "32 of 32 problems (100%)"],
        ),
        (Choices, {"example": "such as Answer: {}"}, ["an example in the prompt", "chance is about 25%"]),
        (
            Choices,
            {"example": r"such as \boxed{{{}}}", "wanted": r"\boxed{{{}}}"},
            ["an example in the prompt", "32 of 32 problems"],
        ),
        (Choices, {"letter": mostly("A", 1)}, ["the same answer, 'Answer: A', earns", "32 of 32", "balance"]),
        (
            Choices,
            {"letter": mostly("C", 0.7)},
            ["the same answer, 'Answer: C', earns", "chance is about 25%"],
        ),
        (Choices, {"letter": mostly("C", 0.7), "score": in_form}, ["the same answer, 'Answer: C', earns"]),
        (Good, {"prompt": capital}, ["the text after the last colon", "such as 'San ", "32 of 32"]),
        (
            Good,
            {"prompt": last_line, "score": lambda self, action: float(action == f"it is {self.expected}")},
            ["the last line of the prompt, copied, such as 'it is ", "32 of 32", "chance is about 50%"],
        ),
        (Choices, {}, []),
        (Choices, {"example": 'such as "Answer: A".'}, []),
        (Choices, {"score": in_form}, []),
        (Choices, {"letter": mostly("C", 0.1)}, []),
        (Good, {"prompt": yes_or_no}, []),
        (Good, {"prompt": quoted}, []),
        (Good, {}, []),
        (Known, {}, []),
        (Game, {}, []),
        (Good, {"count": lambda self, split: 3, "prompt": yes_or_no}, []),
    ],
)
def test_a_guess_that_is_right_far_beyond_chance_is_told(base: type[Good], methods: Any, words: list[str]):
    findings = check_env(broken("Guessed", base, **methods), rules=of("guesses"))
    warnings = [finding.message for finding in findings if finding.verdict == "warning"]
    assert failures(findings) == {}
    assert len(warnings) == bool(words), warnings
    for word in words:
        assert word in warnings[0]


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        ("Which?\nA) x\nB) y\nC) z", "ABC"),
        ("Which? (a) x (b) y", "ab"),
        ("Which? 1. x 2. y", "12"),
        ("Is it so? Answer Yes or no.", ("Yes", "no")),
        ("Plan A: x", ""),
        ("What is 1.5 + 2. Say.", ""),
        ("B) x C) y", ""),
        ("Nobody knows yesterday.", ""),
    ],
)
def test_choices_of_a_prompt(prompt: str, choices: Sequence[str]):
    assert choices_in(prompt) == list(choices)


class OneTurn(Good):
    def score(self, action: str) -> float:
        return 0.5 if action.isdigit() else 0.0


@pytest.mark.parametrize(("env", "verdict"), [(Game, "warning"), (OneTurn, "failed"), (SolvedGame, "passed")])
def test_a_move_of_a_game_may_earn_a_part(env: type[Good], verdict: str):
    rules = of("hidden answers", "hostile actions")
    found = [f for f in check_env(env, rules=rules) if f.rule == "hidden answers"]
    assert found[-1].verdict == verdict
    if verdict == "warning":
        assert "a move of a game may earn a part" in found[-1].message


def test_a_game_whose_answer_is_shown_is_found():
    rules, leaky = of("hidden answers"), {"info": lambda self: {"target": self.expected}}
    solved = check_env(broken("Leaky", SolvedGame, **leaky), rules=rules)
    assert "info['target']" in failures(solved)["hidden answers"]
    unsolved = check_env(broken("Leaky", Game, **leaky), rules=rules)
    assert "info['target'], as the answer" in unsolved[-1].message


@pytest.mark.parametrize("turns", [1, 2])
def test_what_would_have_been_right_may_be_said_at_the_end_alone(turns: int):
    class Tells(Known):
        def step(self, action: str):
            self.turn += 1
            over = self.turn == turns
            return "", self.score(action), over, False, {"expected": self.expected}

        def reset(self, **given: Any):
            self.turn = 0
            return super().reset(**given)

    found = failures(check_env(Tells, rules=of("hidden answers")))
    assert list(found) == (["hidden answers"] if turns == 2 else [])


def test_unnamed_parts_are_a_warning():
    plain = broken("Plain", step=lambda self, action: ("", Good.score(self, action), True, False, {}))
    assert [(f.rule, f.verdict) for f in check_env(plain, rules=of("rewards"))][-1] == ("rewards", "warning")


@pytest.mark.parametrize(("player", "warnings"), [(3, 1), (None, 0), ("", 0)])
def test_a_player_that_is_no_text_is_a_warning(player: Any, warnings: int):
    found = check_env(broken("Placed", info=lambda self: {"player": player}), rules=of("rewards"))
    said = [f.message for f in found if f.verdict == "warning"]
    assert said == ['info["player"] is 3, which is not a string, so it names no player'] * warnings
    assert not failures(found)


# --- the package -----------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new environment ``tens-env`` in the current folder; its module is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write_package("tens-env", tmp_path)
    yield tmp_path / "tens-env"
    for name in [name for name in sys.modules if name.startswith("tens_env")]:
        del sys.modules[name]


def test_a_new_package_passes_its_own_tests(package: Path):
    out = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=package, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout
    for path in package.rglob("*.*"):
        assert "my_env" not in path.name
        if path.suffix in (".py", ".toml", ".md"):
            assert not {"my-env", "my_env", "MyEnv", "noqa"} & set(path.read_text().replace("`", " ").split())


def test_a_new_package_is_found_without_installing_it(package: Path, capsys: pytest.CaptureFixture[str]):
    env = make_env("tens-env", largest=20)
    assert env.reset(options={"index": 0, "split": "test"})[0].startswith("Compute")
    with pytest.raises(UserError, match="areal env show tens-env"):
        make_env("tens-env", smallest=1)
    with pytest.raises(SystemExit) as exit:
        main(["env", "show", "tens-env"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "largest" in shown
    assert "99" in shown
    assert "tens_env.env:TensEnv" in shown


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("My Env", "lower case"),
        ("math-v1", "already exists"),
        ("json", "the Python module json already exists"),
        ("class", "a Python keyword, .* as in class-env"),
        ("None", "a Python keyword"),
        ("here", "exists"),
    ],
)
def test_bad_names_of_packages(tmp_path: Path, name: str, complaint: str):
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match=complaint):
        write_package(name, tmp_path)


# --- finding ---------------------------------------------------------------------------------------------


def test_a_class_in_a_file(tmp_path: Path):
    source = "from areal.envs.math import MathEnv\nclass Sums(MathEnv):\n    '''Sums.'''\n"
    (tmp_path / "sums.py").write_text(source)
    name = f"{tmp_path}/sums.py:Sums"
    assert make_env(name, difficulty=1).reset(seed=0)[0].startswith("Compute")
    assert env_label(name) == "Sums"
    assert describe(name, find_env(name)).summary == "Sums."
    code = f"from areal.registry import make_env; make_env({name!r}).reset(seed=0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("none.py:Env", "the file 'none.py' does not exist"),
        ("areal.envs.math:MathEmv", "did you mean 'MathEnv'"),
        ("areal.nothing:Env", "the module areal.nothing does not exist"),
        ("areal.errors:UserError", "is not an environment; make it a subclass"),
        ("math-v2", "did you mean 'math-v1'"),
        ("none.py", "the file 'none.py' does not exist"),
        (__file__, "name the environment, as in .*test_authoring.py:Good .it has Good, Known"),
    ],
)
def test_what_cannot_be_found(name: str, complaint: str):
    with pytest.raises(UserError, match=complaint):
        make_env(name)


def test_a_file_alone_is_answered_with_what_it_has(tmp_path: Path):
    (tmp_path / "only_agents.py").write_text(
        "from areal.envs.math import MathEnv\nclass Mine:\n    async def run(self, env, model): ...\n"
    )
    name = f"{tmp_path}/only_agents.py"
    with pytest.raises(UserError, match="has no environment; name one that it defines"):
        find_env(name)
    with pytest.raises(UserError, match=r"name the agent, as in .*only_agents.py:Mine .it has Mine."):
        find_agent(name)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UserError, match="No module named 'nothing_of_that_name'"):
        find_env(f"{tmp_path}/broken.py")


class Bare(gymnasium.Env[str, str]):
    def __init__(self, id: int = 1, max_episode_steps: int = 2, render_mode: str | None = None) -> None:
        self.given = id, max_episode_steps


def test_a_class_without_docstring_has_none():
    assert describe("Bare", gymnasium.envs.registration.EnvSpec("Bare-v0", Bare)).summary == ""
    inherits = broken("Inherits", Good)
    assert describe("I", gymnasium.envs.registration.EnvSpec("I-v0", inherits)).summary.startswith(
        "Asks for a sum"
    )


def test_options_may_be_called_as_arguments_of_make():
    register_env("bare-v0", Bare)
    try:
        assert make_env("bare-v0", id=5, max_episode_steps=7).unwrapped.given == (5, 7)
        assert make_env("bare-v0").unwrapped.given == (1, 2)
    finally:
        del gymnasium.registry["bare-v0"]


def test_a_wrong_entry_point():
    register_env("wrong-v0", "areal.envs.math:Nothing")
    try:
        with pytest.raises(
            UserError, match=r"environment 'wrong-v0' cannot be loaded: .*areal.envs.math has no 'Nothing'"
        ):
            make_env("wrong-v0")
    finally:
        del gymnasium.registry["wrong-v0"]


def test_a_name_that_is_taken():
    with pytest.raises(UserError, match=r"'math-v1' is already registered, as areal.envs.math:MathEnv"):
        register_env("math-v1", Good)


# --- trying ----------------------------------------------------------------------------------------------


def test_a_person_plays():
    answers = iter(["3", None])
    stream = io.StringIO()
    assert play_person(Known(), 3, 0, lambda: next(answers), Show(stream)) == 0.0
    assert stream.getvalue().count("is?") == 2
    assert "reward: 0\n" in stream.getvalue()


def test_a_person_sees_what_was_said_before():
    class Told(Known):
        def info(self) -> dict[str, Any]:
            return {
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]
            }

    stream = io.StringIO()
    play_person(Told(), 1, 0, lambda: None, Show(stream))
    assert stream.getvalue().startswith("[system] Be brief.\n")
    assert stream.getvalue().endswith("is?\n")


def test_a_code_block_is_one_answer(monkeypatch: pytest.MonkeyPatch):
    lines = iter(["```python", "x = 1", "```", "next"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert commands._ask() == "```python\nx = 1\n```"
    assert commands._ask() == "next"


@pytest.mark.parametrize("steps", [1, 2])
async def test_an_agent_that_stops_too_early_is_told_of(steps: int):
    """The environment ends its episode after two steps."""

    class TwoSteps:
        tools: Sequence[Tool] = ()
        player = ""
        taken = 0

        async def step(self, action: str) -> Step:
            self.taken += 1
            return Step("", 0.0, self.taken == 2, False, {})

    class Steps:
        async def run(self, env: Env, model: Model) -> None:
            for _ in range(steps):
                await env.step("go")

    stream = io.StringIO()
    await ShownAgent(Steps(), Show(stream)).run(cast(Any, TwoSteps()), cast(Any, None))
    assert ("use --agent multi-turn" in stream.getvalue()) == (steps == 1)
