"""What installed packages give: environments, agents, rewards and benchmarks, found by their entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import pytest

from areal import registry
from areal.authoring.scaffold import write_package
from areal.cli import main
from areal.config import parse_config
from areal.errors import UserError
from areal.registry import environments
from areal.rewards.parts import Judged, Reward
from areal.runtime.agents import make_agent

MORE = """
from areal.agents.single_turn import SingleTurn
from areal.evaluation.benchmark import Benchmark


class Patient(SingleTurn):
    '''Waits.'''

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause


def brief(judged):
    return 1.0 if len(judged.answer) < 10 else 0.0


TENS = Benchmark("tens", env="math-v1", source="tens.jsonl", problems=2, prompt="{problem}")
"""
POINTS = """
[areal.envs]
tens-env = tens_env.env:TensEnv
no-module-env = tens_env.nowhere:Env
broken-env = tens_env.broken:Env
no-class-env = tens_env.env:TenEnv
no-env = tens_env.more:brief
bad id = tens_env.env:TensEnv
math-v1 = tens_env.env:TensEnv
twice-env = tens_env.env:TensEnv

[areal.agents]
patient = tens_env.more:Patient
broken-agent = tens_env.broken:Agent
single-turn = tens_env.more:Patient

[areal.rewards]
brief = tens_env.more:brief

[areal.benchmarks]
tens = tens_env.more:TENS
twice = tens_env.more:TENS
"""
OTHER = """
[areal.envs]
twice-env = other_tens.env:Env

[areal.benchmarks]
twice = other_tens.more:TENS
"""
REGISTRIES = (registry.agents, registry.rewards, registry.benchmarks)


def dist_info(site: Path, name: str, points: str) -> None:
    folder = site / f"{name.replace('-', '_')}-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, as pip leaves them; all is forgotten afterwards."""
    site = tmp_path / "site"
    site.mkdir()
    write_package("tens-env", tmp_path)
    package = (tmp_path / "tens-env" / "tens_env").rename(site / "tens_env")
    (package / "more.py").write_text(MORE)
    (package / "broken.py").write_text("import math\n\nmath.nothing()\n")
    dist_info(site, "tens-env", POINTS)
    dist_info(site, "zz-other-tens", OTHER)
    known = set(gymnasium.registry)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path / "tens-env" / "tests")  # where no folder is called tens-env
    for one in REGISTRIES:
        monkeypatch.setattr(one, "_entries", dict(one._entries))
        monkeypatch.setattr(one, "_packages", {})
        monkeypatch.setattr(one, "_refused", {})
        monkeypatch.setattr(one, "_discovered", False)
    environments._discover_envs.cache_clear()
    yield site
    for name in set(gymnasium.registry) - known:
        del gymnasium.registry[name]
    for name in [name for name in sys.modules if name.startswith("tens_env")]:
        del sys.modules[name]
    environments._discover_envs.cache_clear()


@pytest.fixture
def areal(site: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def areal(*arguments: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        captured = capsys.readouterr()
        assert exit.value.code == status, captured
        return captured.out + captured.err

    return areal


def test_the_commands_find_an_installed_environment(
    areal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    listed = areal("env", "list")
    assert "tens-env" in listed
    assert "largest=99" in listed
    assert "broken-env" in listed, "those that cannot be loaded are listed, too"
    assert "of the package tens-env cannot be loaded" in " ".join(listed.split())
    assert "tens_env.env:TensEnv" in areal("env", "show", "tens-env")
    assert "rules hold" in areal("env", "check", "tens-env")
    answers = iter(["\\boxed{1}", "\\boxed{2}"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert "Compute" in areal("env", "try", "tens-env", "--episodes", "1")
    output = areal("train", "--env", "tens-env", "--agent", "patient", "agent_options.pause=0.5", "--dry-run")
    assert "env: tens-env" in output
    assert "tens" in areal("eval", "--benchmark", "list")


def test_agents_rewards_and_benchmarks_of_a_package(site: Path):
    agent = make_agent(parse_config({"agent": "patient", "agent_options": {"pause": 0.5}}))
    assert agent.pause == 0.5
    rewarded = Reward({"correct": 1.0, "brief": 0.5})
    assert rewarded(Judged("How many?", "4", found=True, correct=1.0))[0] == 1.5
    assert registry.benchmarks.get("tens").problems == 2
    assert registry.make_env("tens-env", largest=20).reset(seed=0)[0].startswith("Compute")


@pytest.mark.parametrize(
    ("find", "name", "complaint"),
    [
        (
            registry.find_env,
            "no-module-env",
            r"environment 'no-module-env' of the package tens-env cannot be loaded: "
            r".*the module tens_env.nowhere does not exist.*pyproject",
        ),
        (registry.find_env, "broken-env", r"package tens-env .*AttributeError: .*\(at .*broken.py:3\)"),
        (registry.find_env, "no-class-env", r"package tens-env .*no 'TenEnv'; did you mean 'TensEnv'"),
        (registry.make_env, "no-env", r"environment 'no-env' requires the option 'judged'"),
        (
            registry.find_env,
            "bad id",
            r"'bad id' is not a valid name of an environment: .*\(of the package tens-env\)",
        ),
        (
            registry.find_env,
            "math-v1",
            r"'math-v1' is defined twice: areal.envs.math:MathEnv, already registered, and "
            r"tens_env.env:TensEnv of the package tens-env; rename",
        ),
        (
            registry.find_env,
            "twice-env",
            r"twice: tens_env.env:TensEnv, of the package tens-env, and other_tens.env:Env of the package z",
        ),
        (registry.agents.get, "broken-agent", r"agent 'broken-agent' of the package tens-env.*broken.py:3"),
        (registry.agents.get, "single-turn", r"agent 'single-turn' is defined twice: .*package tens-env"),
        (
            registry.benchmarks.get,
            "twice",
            r"benchmark 'twice' is defined twice: .*tens-env, and .*zz-other-tens",
        ),
    ],
)
def test_a_wrong_entry_point_names_its_package(
    site: Path, find: Callable[[str], object], name: str, complaint: str
):
    with pytest.raises(UserError, match=complaint) as caught:
        find(name)
    assert "\n" not in str(caught.value)
    registry.find_env("code-v1")  # the others are as they were


def test_ray_s_workers_find_them(site: Path, tmp_path: Path):
    """By id, of an installed package, and from a file, each in a process of its own."""
    pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")
    (tmp_path / "mine.py").write_text(
        "from areal.envs.guess import GuessEnv\nclass Mine(GuessEnv):\n    '''Guesses.'''\n"
    )
    example = Path(__file__).parents[2] / "examples" / "ray_env.py"
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = subprocess.run(
        [sys.executable, str(example), "tens-env", str(tmp_path / "mine.py:Mine")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert out.returncode == 0, out.stderr
    first, second = out.stdout.splitlines()[-2:]
    assert first.startswith("tens-env: 'Compute ")
    assert re.search(r"mine.py:Mine: 'Guess a number from \d+ to", second)
