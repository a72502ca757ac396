"""What ``--agent`` names is an agent, or one line says why not, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal.agents.program import Program
from areal.config import parse_config
from areal.errors import UserError
from areal.runtime.agents import make_agent

TEXT = """
import functools
import math as MODULE


class Good:
    def __init__(self, depth=1):
        self.depth = depth

    async def run(self, env, model):
        pass


class NoRun:
    pass


class NotAsync:
    def run(self, env, model):
        pass


class AsksMore:
    async def run(self, env, model, third):
        pass


class Generates:
    async def run(self, env, model):
        yield


class Raises:
    def __init__(self):
        raise KeyError("MY_KEY")

    async def run(self, env, model):
        pass


class NeedsMore:
    def __init__(self, depth):
        pass

    async def run(self, env, model):
        pass


class Defaults:
    async def run(self, env, model, third=None):
        pass


class Static:
    @staticmethod
    async def run(env, model):
        pass


def solve(task, base_url, api_key):
    return ""


async def asolve(task, base_url, api_key):
    return ""


async def two(word, task, base_url, api_key):
    return word


def factory(depth=1):
    return Good(depth)


def nothing():
    return None


PARTIAL = functools.partial(two, "word")
INSTANCE = Good()
NUMBER = 5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "choice_of_agents.py"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoRun", "creates an object of type NoRun with no method run; an agent needs 'async def run"),
        ("NotAsync", "NotAsync with a method run that is not 'async def'"),
        ("Generates", "Generates with a method run that is not 'async def'"),
        ("AsksMore", r"called as run\(env, model\): missing a required argument: 'third'"),
        ("Raises", r"raised KeyError: 'MY_KEY' \(at .*choice_of_agents.py:\d+\)"),
        ("NeedsMore", "missing a required argument: 'depth'"),
        ("solve", "the agent solve must be an async function"),
        ("nothing", "creates an object of type NoneType"),
        ("INSTANCE", "is an object of type Good; name a class with 'async def run"),
        ("NUMBER", "is an object of type int; name a class"),
        ("MODULE", "is a module; name a class"),
        ("Goood", "has no 'Goood'; did you mean 'Good'"),
    ],
)
def test_what_is_no_agent_is_reported_in_one_line(place: Path, name: str, message: str):
    with pytest.raises(UserError, match=message) as refused:
        make_agent(parse_config({"agent": f"{place}:{name}"}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["Good", "Defaults", "Static", "factory"])
def test_what_is_one_is_taken(place: Path, name: str):
    agent = make_agent(parse_config({"agent": f"{place}:{name}"}))
    assert type(agent).__name__ in ("Good", "Defaults", "Static")


@pytest.mark.parametrize("name", ["asolve", "PARTIAL"])
def test_an_async_function_is_a_program(place: Path, name: str):
    assert isinstance(make_agent(parse_config({"agent": f"{place}:{name}"})), Program)


def test_options_reach_the_agent_or_are_refused(place: Path):
    for name in ("Good", "factory"):
        assert (
            make_agent(parse_config({"agent": f"{place}:{name}", "agent_options": {"depth": 3}})).depth == 3
        )
        with pytest.raises(UserError, match="unexpected keyword argument 'width'"):
            make_agent(parse_config({"agent": f"{place}:{name}", "agent_options": {"width": 3}}))


def test_an_option_s_former_name_is_refused_with_its_new_one():
    options = {"command": "true", "most_answers": 3}
    with pytest.raises(UserError, match=r"most_answers' was renamed; use 'agent_options.max_comp"):
        make_agent(parse_config({"agent": "program", "agent_options": options}))
