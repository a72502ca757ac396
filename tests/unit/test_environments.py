"""Environments that raise, hang or give nonsense: each is named, counted, and keeps nothing waiting."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from test_episode import RENDERER, Echo, Scripted
from until import until

from areal.agents.single_turn import SingleTurn
from areal.errors import EnvironmentFailure, UserError
from areal.rollout.admission import Admission
from areal.rollout.controller import RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.worker import RolloutWorker
from areal.trajectory import Group

TASK = {"seed": 3}


class Named(Echo):
    """Counts its instances, and those that are closed."""

    made = closed = 0

    def __init__(self) -> None:
        type(self).made += 1

    def close(self) -> None:
        type(self).closed += 1


def env_that(**methods: Callable[..., Any]) -> type[Named]:
    return type("Bad", (Named,), {**methods, "made": 0, "closed": 0})


def raising(error: BaseException) -> Callable[..., Any]:
    def step(self: Any, action: str) -> Any:
        raise error

    return step


def run_episode(pool: EnvironmentPool) -> Any:
    engine: Any = Scripted("eos")
    return RolloutWorker(engine, RENDERER, SingleTurn(), pool, 100).run_episode(TASK, Sampling(10))


WRONG = {
    "raises": (
        raising(ValueError("no\nluck")),
        r"raised ValueError: no luck \(at .*test_environments.py:\d+\)",
    ),
    "stops an iteration": (raising(StopIteration()), r"raised StopIteration \(at "),
    "ends the process": (raising(SystemExit(0)), r"raised SystemExit: 0 \(at "),
    "gives four values": (
        lambda self, action: ("", 0.0, True, {}),
        r"did not return \(observation, reward, ",
    ),
    "gives a number": (
        lambda self, action: (3, 0.0, True, False, {}),
        r"returned an observation of type int, .*a str",
    ),
    "gives no reward": (
        lambda self, action: ("", None, True, False, {}),
        r"returned the reward None, which is not",
    ),
    "gives NaN": (
        lambda self, action: ("", float("nan"), True, False, {}),
        r"returned the reward nan, which is not",
    ),
    "gives a list of parts": (
        lambda self, action: ("", 1.0, True, False, {"reward_parts": [1.0]}),
        r"returned reward_parts=\[1.0\], which is not a dict of names and numbers",
    ),
    "gives a part": (
        lambda self, action: ("", 1.0, True, False, {"reward_parts": {"a": float("inf")}}),
        r"returned the reward inf, which is not a finite number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_a_step_does_wrong_is_reported_in_one_line(case: str):
    step, text = WRONG[case]
    env = env_that(step=step)
    pool = EnvironmentPool(env, 2, name="bad.py:Bad")
    with pytest.raises(
        EnvironmentFailure, match=rf"^environment 'bad.py:Bad': step in the task .*3}} {text}"
    ):
        await run_episode(pool)
    await pool.close()
    assert env.closed == env.made == 1, "it is closed, and not used again"


async def test_a_reset_or_a_constructor_that_raises():
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("key")

    for env, text in (
        (env_that(reset=broken), r"reset in the task {'seed': 3} raised KeyError: 'key' \(at "),
        (broken, r"its creation raised KeyError"),
        (env_that(reset=lambda self, **task: "text"), r"reset in the task .* \(observation, info\)"),
    ):
        with pytest.raises(EnvironmentFailure, match=text):
            await run_episode(EnvironmentPool(env, 2))


async def test_parts_need_not_be_named():
    for info in ({}, {"reward_parts": None}):
        step = lambda self, action, info=info: ("", 2.0, True, False, info)  # noqa: E731
        assert (await run_episode(EnvironmentPool(env_that(step=step), 1))).reward_parts == {"reward": 2.0}


async def test_bad_input_stays_bad_input_and_good_environments_are_reused():
    with pytest.raises(UserError, match=r"^no such index$"):
        await run_episode(EnvironmentPool(env_that(step=raising(UserError("no such index"))), 1))
    env = env_that()
    pool = EnvironmentPool(env, 2)
    for _ in range(5):
        assert (await run_episode(pool)).reward > 0
    assert (env.made, env.closed) == (1, 0)
    await pool.close()
    assert env.closed == 1


@pytest.fixture
def released() -> Any:
    """Set at the end of a test, so that what hung in it does not outlive it."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_that_hangs_is_left_behind(released: threading.Event, caplog: pytest.LogCaptureFixture):
    """It is told where it is; others go on; it is not closed while it runs, and the end waits for nobody."""
    first = True

    def step(self: Any, action: str) -> Any:
        nonlocal first
        if first:
            first = False
            released.wait()
        return Echo.step(self, action)

    env = env_that(step=step)
    pool = EnvironmentPool(env, 1, time_limit=3, name="slow")
    caplog.set_level(logging.WARNING)
    with pytest.raises(
        EnvironmentFailure,
        match=r"'slow': step in the task .* has not returned after 3 s \(rollout.env_time_limit\); "
        r"it is at .*test_environments.py:\d+$",
    ):
        await run_episode(pool)
    assert (await run_episode(pool)).reward > 0, "the one thread is replaced"
    assert env.made == 2
    started = time.monotonic()
    await pool.close()
    assert time.monotonic() - started < 60, "the end waits for nobody"
    assert env.closed == 1
    released.set()


async def test_too_many_that_hang_end_the_run(released: threading.Event):
    """The controller runs it again, but threads that hang have a budget; stopping waits for none of them."""
    env = env_that(step=lambda self, action: released.wait())
    pool = EnvironmentPool(env, 2, time_limit=0.05, name="slow")
    admission: Admission[Group] = Admission(2, 1)
    control = RolloutController(
        admission, lambda task, episode_id: run_episode(pool), lambda n: {}, 2, 8, 100, 100
    )
    with pytest.raises(
        UserError, match=r"has not returned after 0.05 s .*; \d+ calls hung since .*; give these calls"
    ):
        await asyncio.wait_for(control.run(), 60)
    await pool.close()


async def test_python_code_that_never_ends_is_ended():
    def step(self: Any, action: str) -> Any:
        while True:
            pass

    pool = EnvironmentPool(env_that(step=step), 1, time_limit=3)
    with pytest.raises(EnvironmentFailure, match=r"it is at .*test_environments.py:\d+$"):
        await run_episode(pool)
    ((worker, _),) = pool._envs._left
    worker._thread.join(60)
    assert not worker.alive


async def test_stopped_while_an_environment_hangs(released: threading.Event):
    """Ctrl-C cancels what waits; a close that hangs is left as well."""
    begun = threading.Event()
    env = env_that(step=lambda self, action: begun.set() or released.wait())
    pool = EnvironmentPool(env, 2)
    running = asyncio.create_task(run_episode(pool))
    await until(begun.is_set)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await pool.close()
    assert env.closed == 0, "a step of it is still running"


async def test_a_close_that_hangs_or_raises_is_written_down(
    released: threading.Event, caplog: pytest.LogCaptureFixture
):
    for close, grace, text in (
        (lambda self: released.wait(), 2, "close has not returned after 2 s; it is at"),
        (lambda self: [][0], 60, "close raised IndexError"),
    ):
        pool = EnvironmentPool(env_that(close=close), 2, name="slow")
        await run_episode(pool)
        await pool.close(grace)
        assert f"environment 'slow': {text}" in caplog.text


async def test_slow_calls_are_written_down_before_they_fail(caplog: pytest.LogCaptureFixture):
    def step(self: Any, action: str) -> Any:
        while line not in caplog.text:
            time.sleep(0.01)
        return Echo.step(self, action)

    line = "environment 'slow': step in the task {'seed': 3} has taken more than 0.05 s; it is at"
    assert (await run_episode(EnvironmentPool(env_that(step=step), 2, name="slow", slow=0.05))).reward > 0


def test_it_is_said_where_everything_is_when_nothing_moves():
    """A regular expression that keeps Python's lock: no thread of ours runs any more, and no handler."""
    code = (
        "import asyncio, re, sys, threading\nfrom areal.runtime.heartbeat import heartbeat\n"
        "def backtracks(): re.match('(a+)+$', 'a' * 64 + 'b')\n"
        "async def main():\n"
        "    async with heartbeat(sys.stderr, 5.0):\n"
        "        await asyncio.sleep(7.5)\n"
        "        print('so far, so good', file=sys.stderr, flush=True)\n"
        "        threading.Thread(target=backtracks, daemon=True).start()\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "in backtracks" not in said:
            said += (line := process.stderr.readline())
            assert line, said
        process.kill()
    assert said.startswith("so far, so good\nTimeout ("), "nothing was said while all was well"


async def test_an_environment_that_always_raises_ends_the_run_with_one_line():
    pool = EnvironmentPool(env_that(step=raising(OSError("gone"))), 2, name="bad")
    admission: Admission[Group] = Admission(2, 1)
    control = RolloutController(
        admission, lambda task, episode_id: run_episode(pool), lambda n: {}, 2, 8, 1, 3
    )
    with pytest.raises(
        EnvironmentFailure, match=r"'bad': step .* raised OSError: gone .*; 4 groups in a row"
    ):
        await asyncio.wait_for(control.run(), 60)
    assert control.failures >= 4
