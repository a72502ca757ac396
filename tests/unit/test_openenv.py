"""``openenv-v1``: environments behind a real OpenEnv server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from openenv_running import openenv_server

from areal import faults
from areal.agents.interface import Step
from areal.authoring import check
from areal.cli import main
from areal.envs.openenv_fields import fixed_values, said_field, shown, shown_fields
from areal.errors import EnvironmentFailure, UserError
from areal.registry import make_env
from areal.rollout.environments import EnvironmentPool
from areal.runtime.first_look import look_at


@pytest.fixture(scope="module")
def down(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that keeps the server down once it has died."""
    return tmp_path_factory.mktemp("openenv") / "down"


@pytest.fixture(scope="module")
def server(down: Path) -> Iterator[str]:
    with openenv_server(down) as url:
        yield url


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Have a file for a while."""
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def played(url: str, *responses: str, seed: int = 0, **options: Any) -> list[tuple[Any, ...]]:
    """Return what the reset and each step of an episode returned, the info left out."""
    env = make_env("openenv-v1", url=url, **options)
    try:
        return [env.reset(seed=seed)[:1], *(env.step(response)[:4] for response in responses)]
    finally:
        env.close()


def test_an_episode_has_the_server_s_words_rewards_and_end(server: str):
    url = f"{server}/sums"
    env = make_env("openenv-v1", url=url)
    earned = set()
    for seed in range(3):
        asked = env.reset(seed=seed)[0]
        assert asked.endswith("in \\boxed{}.")
        assert env.reset(seed=seed)[0] == asked, "the server is given the seed"
        right = eval(asked.split("Compute")[1].split(".")[0])
        observation, *rest, info = env.step(f"\\boxed{{{right}}}")
        assert observation.startswith("Compute")
        assert (rest, info) == ([0.5, False, False], {"reward_parts": {"reward": 0.5}})
        assert env.step("none \ud800")[:4] == ("", 0.0, True, False)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step("1")
        earned.add(asked)
    assert len(earned) == 3
    assert env.unwrapped.notices == (
        f"{url}: the response is the action's text (string), and the model sees the observation's said",
    )
    env.close()
    env.close()
    assert env.reset(seed=1)[0] == played(f"{url}/", seed=1)[0][0], "a session that has ended begins anew"
    env.close()


def test_the_checks_pass(server: str):
    rules = {name: rule for name, rule in check.RULES.items() if name != "throughput"}
    findings = check.check_env(lambda: make_env("openenv-v1", url=f"{server}/sums"), rules=rules)
    assert [str(f) for f in findings if f.verdict in ("failed", "warning")] == []


def test_many_sessions_at_once_do_not_mix(server: str):
    def episode(seed: int) -> list[tuple[Any, ...]]:
        return played(f"{server}/sums", "\\boxed{9}", "\\boxed{9}", seed=seed % 8)

    alone = [episode(seed) for seed in range(8)]
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(episode, range(48))) == [alone[seed % 8] for seed in range(48)]


def test_values_that_are_no_text(server: str):
    asked = "Put one of these in \\boxed{}: up, down."
    board = {"says": "move", "field": ["board", "hint"]}
    assert played(f"{server}/board", "I go \\boxed{DOWN}", "up", "left", **board) == [
        (f"board: [[0, 1]]\n{asked}",),
        (f"board: [[-1]]\nhint: ü\n{asked}", 0.0, False, False),  # no reward is 0
        (f"board: [[1]]\nhint: ü\n{asked}", 0.0, False, False),
        (asked, 0.0, False, False),
    ]
    number = "Put a whole number in \\boxed{}."
    found = played(
        f"{server}/board", "2.5", "-3", "\\boxed{7}", says="speed", field="board", action={"move": "up"}
    )
    assert found == [
        (f"[[0, 1]]\n{number}",),
        (number, 0.0, False, False),
        (f"[[-3]]\n{number}", 0.0, False, False),
        ("[[7]]", 0.0, False, True),  # the observation has a field truncated
    ]


def test_other_fields_of_actions_and_resets(server: str):
    two = {"says": "word", "action": {"name": "x"}, "options": {"level": 3}, "task": "Play."}
    assert played(f"{server}/two", "hi", **two) == [
        ("Play.\nsay ['level']",),
        ("{'name': 'x', 'word': 'hi'}", 1.0, True, False),
    ]


def test_a_tool_of_an_mcp_server(server: str):
    tool = {
        "says": "arguments.text",
        "action": {"tool_name": "shout"},
        "field": "result.data",
        "task": "Shout.",
    }
    assert played(f"{server}/tools", "hi", **tool) == [("Shout.",), ("HI", 0.0, False, False)]


def test_what_the_server_refuses_costs_the_turn(server: str):
    found = played(f"{server}/strict", "x", "a long one", "four")
    assert found[1] == (
        "The server refused that:  String should have at least 2 characters.",
        0.0,
        False,
        False,
    )
    assert found[2][0] == "The server refused that:  String should have at most 5 characters."
    assert found[3] == ("{'word': 'four'}", 1.0, True, False)
    env = make_env("openenv-v1", url=f"{server}/two", says="word", action={"name": 3})
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"refuses an action for its field name .Input should be a valid str"):
        env.step("hi")
    env.close()


def test_what_cannot_be_read_may_end_the_episode(server: str):
    """Else babbling up to a limit would beat a loss."""
    board = {"says": "move", "field": "board", "unreadable": -1}
    assert played(f"{server}/board", "up", "I go left", **board)[1:] == [
        ("[[1]]\nPut one of these in \\boxed{}: up, down.", 0.0, False, False),
        ("Put one of these in \\boxed{}: up, down.", -1.0, True, False),
    ]
    found = played(f"{server}/strict", "x", unreadable=-0.5)
    assert found[1] == (
        "The server refused that:  String should have at least 2 characters.",
        -0.5,
        True,
        False,
    )
    first, second = (make_env("openenv-v1", url=f"{server}/one-board", wait=60, **board) for _ in range(2))
    for env in (first, second, first):
        env.reset(seed=1)
        assert env.step("")[4] == {"reward_parts": {"reward": -1.0}}
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step("up")
    first.close()
    second.close()
    for value in ("-1", True, float("nan")):
        with pytest.raises(UserError, match=f"env_options.unreadable={value} is not a finite number"):
            make_env("openenv-v1", url=f"{server}/strict", unreadable=value)


@pytest.mark.parametrize(
    ("path", "options", "complaint"),
    [
        (
            "two",
            {},
            r"choose the field for the response with env_options.says=FIELD, from name .string., word",
        ),
        ("two", {"says": "nix"}, r"action: says=nix is not one of name .string., word .string.$"),
        (
            "two",
            {"says": "word"},
            r"'word' is not enough; also set env_options.action={name: VALUE}; fields: name",
        ),
        (
            "two",
            {"says": "word", "action": {"nam": 1}},
            r"action: action={nam: …} is not one of name .string.",
        ),
        ("two", {"says": "word.x"}, "says=word.x is neither text nor a number; choose one of name"),
        (
            "board",
            {},
            r"choose the field for .*, from kind .one of move., move .one of up.down., speed .integer.$",
        ),
        ("board", {"says": "move"}, ""),
        (
            "board",
            {"says": "move", "field": "bord"},
            "observation: field=bord is not one of board .array., hint",
        ),
        ("board", {"says": "move", "field": []}, r"observation: field=\[\] shows none of board"),
        ("tools", {}, r"has tools; .*says=arguments.NAME 'env_options.action={tool_name: TOOL}'"),
        ("", {}, "/schema does not belong to an OpenEnv server .404"),
    ],
)
def test_fields_that_leave_a_choice_are_listed(server: str, path: str, options: Any, complaint: str):
    if not complaint:
        return make_env("openenv-v1", url=f"{server}/{path}", **options).close()  # one field of text: hint
    with pytest.raises(UserError, match=complaint) as failed:
        make_env("openenv-v1", url=f"{server}/{path}", **options)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (None, r"openenv-v1 needs a server; set env_options.url=http://HOST:PORT"),
        ("localhost:8000", "env_options.url=localhost:8000 is not an address such as http://HOST:PORT"),
        ("http:///", "is not an address"),
        ("http://[", "no server answers at|is not an address"),
        (
            "http://127.0.0.1:{free}",
            "no server answers at http://127.0.0.1:.*ConnectError.*; start it, or set",
        ),
    ],
)
def test_no_server(url: str | None, complaint: str, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = url and url.replace("{free}", str(port))
    with pytest.raises(UserError, match=complaint):
        make_env("openenv-v1", url=given)
    words = ["train", "--env", "openenv-v1", *([f"env_options.url={given}"] if given else [])]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--device", "cpu", "--dry-run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_server_that_dies_is_the_environment_s_fault_and_may_come_back(server: str, down: Path):
    pool = EnvironmentPool(lambda: make_env("openenv-v1", url=f"{server}/sums", wait=60), 4, name="sums")

    async def episode(response: str) -> Step:
        async with pool.lend() as env:
            await pool.reset(env, {"seed": 1})
            return await pool.step(env, response, {"seed": 1})

    hasty = make_env("openenv-v1", url=f"{server}/sums", wait=0.01)
    hasty.reset(seed=1)
    before = faults.counts()["env_faults"]
    try:
        with kept(down):
            with pytest.raises(
                EnvironmentFailure, match=r"step: the server at .*/sums has gone .ConnectionClosed"
            ):
                await episode("die")
            assert faults.counts()["env_faults"] == before + 1
            with pytest.raises(
                EnvironmentFailure, match=r"reset: the server at .* cannot be reached .*refused"
            ):
                hasty.reset(seed=1)
            assert faults.counts()["env_faults"] == before + 2
        assert not (await episode("1")).done, "it waits for the server"
    finally:
        await pool.close()
        hasty.close()


def test_a_session_that_was_idle_when_the_server_died_is_none_that_fails(server: str):
    idle, other = (make_env("openenv-v1", url=f"{server}/sums", wait=60) for _ in range(2))
    opening = idle.reset(seed=1)[0]
    other.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match="has disconnected"):
        other.step("die")
    assert idle.reset(seed=1)[0] == opening
    idle.close()


@pytest.mark.parametrize(
    ("path", "responses", "complaint", "fault"),
    [
        ("sums", ["raise"], r"step: the server at .* answered with an error: by zero .EXECUTION_ERROR.$", 0),
        ("sums", ["sleep"], r"step: the server at .* has not answered after 0.5 s .time_limit.$", 1),
        ("broken", [], r"reset: .* Environment factory 'Broken' failed to create instance. .FACTORY_ERR", 0),
    ],
)
def test_errors_of_the_server(server: str, path: str, responses: list[str], complaint: str, fault: int):
    env = make_env("openenv-v1", url=f"{server}/{path}")
    before = faults.counts()["env_faults"]

    def episode() -> None:
        env.reset(seed=0)
        if fault:  # only now: a reset may take longer
            env.unwrapped._session._time_limit = 0.5
        for response in responses:
            env.step(response)

    with pytest.raises(EnvironmentFailure, match=complaint):
        episode()
    assert faults.counts()["env_faults"] == before + fault
    env.close()


def test_sessions_that_are_idle_make_room(server: str):
    first, second, third = (
        make_env("openenv-v1", url=f"{server}/alone", wait=wait) for wait in (60, 60, 0.3)
    )
    first.reset(seed=1)
    with pytest.raises(
        UserError,
        match=r"has no free session .*1/1 sessions.*; start it with more .max_concurrent_envs., one for each "
        r"episode in flight \(rollout.max_concurrent, but at least rollout.group_size\)",
    ):
        third.reset(seed=1)
    first.step("1")
    first.step("1")  # its episode is over
    assert second.reset(seed=1)[0].startswith("Compute")
    with pytest.raises(UserError, match="has no free session"):
        third.reset(seed=1)
    second.close()
    assert first.reset(seed=1)[0].startswith("Compute")
    first.close()


def test_the_first_look_keeps_no_session(server: str):
    seen, other = (make_env("openenv-v1", url=f"{server}/alone", wait=60) for _ in range(2))
    look_at(seen, "openenv-v1", 1, True, 60.0)
    assert other.reset(seed=1)[0].startswith("Compute")
    other.close()


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


def of(*required: str, **fields: Any) -> dict[str, Any]:
    return {"properties": {"metadata": {"type": "object"}, **fields}, "required": list(required)}


@pytest.mark.parametrize(
    ("schema", "rest", "said"),
    [
        (of(a=TEXT), {}, "a"),
        (of("a", a=TEXT, b=TEXT), {}, "a"),  # the other one has a default
        (of(a=TEXT, b=NUMBER), {}, "a"),
        (of("b", a=TEXT, b=NUMBER), {}, "b"),
        (of("a", "b", a=TEXT, b=NUMBER), {"b": 1}, "a"),
        (of("a", "b", a=TEXT, b=TEXT), {"a": "x"}, "b"),
        (of("a", "k", a=NUMBER, k={"const": "x", "type": "string"}), {}, "a"),
        (of(a={"anyOf": [TEXT, {"type": "null"}]}, b={"type": "array"}), {}, "a"),
        (of(a=TEXT, b=TEXT), {}, None),
        (of(a=NUMBER, b=NUMBER), {}, None),
        (of(a={"type": "array"}), {}, None),
        (of(a={"anyOf": [TEXT, NUMBER]}), {}, None),
        (of(), {}, None),
        (of("a", "b", a=TEXT, b=NUMBER), {}, None),
        ({}, {}, None),
    ],
)
def test_the_field_that_is_said(schema: dict[str, Any], rest: dict[str, Any], said: str | None):
    if said is not None:
        assert said_field(schema, None, rest).name == said
        return
    with pytest.raises(UserError, match="openenv-v1: the server's action: "):
        said_field(schema, None, rest)


def test_fields_that_are_fixed_and_shown():
    kind = {"const": "x", "type": "string"}
    assert fixed_values(of("k", k=kind, a=TEXT)) == {"k": "x"}
    assert fixed_values(of(k=kind, a=TEXT)) == {}
    base = {"done": {"type": "boolean"}, "reward": {"type": "number"}}
    assert shown_fields(of(a=NUMBER, **base), None) == ("a",)
    assert shown_fields(of(a=NUMBER, b=TEXT, **base), None) == ("b",)
    assert shown_fields(of(a={"type": "object"}, b=TEXT), ["a.x", "b"]) == ("a.x", "b")
    for schema in (of(a=TEXT, b=TEXT), of(a=NUMBER, b=NUMBER), of(**base)):
        with pytest.raises(
            UserError, match="openenv-v1: the server's observation: choose the fields to show"
        ):
            shown_fields(schema, None)
    assert shown({"a": {"x": [1, "ü"]}, "b": None}, ("a.x", "b")) == 'a.x: [1, "ü"]'
    assert shown({"a": {"x": "ü"}}, ("a.x",)) == "ü"
    assert shown({"a": 3}, ("a.x",)) == ""


@pytest.mark.parametrize(
    ("kind", "response", "value"),
    [
        ("integer", "\\boxed{-4}", -4),
        ("integer", " 12\n", 12),
        ("integer", "4.0", None),
        ("integer", "I think 4", None),
        ("number", "so \\boxed{0.25}", 0.25),
        ("number", "nan", None),
        ("number", "1e999", None),
        ("boolean", "\\boxed{Yes}", True),
        ("boolean", "false", False),
        ("boolean", "1", None),
        ("string", " as it is\n", " as it is\n"),
    ],
)
def test_responses_as_values(kind: str, response: str, value: Any):
    field = said_field(of(a={"type": kind}), None, {})
    if value is None:
        with pytest.raises(ValueError):  # noqa: PT011 (whatever Python says of it)
            field.read(response)
        return
    assert field.read(response) == value
    assert type(field.read(response)) is type(value)
