"""Workers do the same wherever they run, and nobody waits for one that has ended."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from children import workers
from toys import Closing, LouderToy, Rank, Toy, crash, doubled, made_late, never_made
from until import until

from areal.errors import LearnerLost, UserError, WorkerLost, how_ended
from areal.workers import inline, process
from areal.workers.group import WorkerGroup
from areal.workers.handle import Handle, Launch, side_by_side

LAUNCHERS: dict[str, Launch] = {"inline": inline.launch, "process": process.launch}


@pytest.fixture(params=LAUNCHERS)
def launch(request: pytest.FixtureRequest) -> Launch:
    return LAUNCHERS[request.param]


async def all_begun(toy: Handle[Toy]) -> None:
    """Wait until what tasks call is there, and has begun where it is asynchronous."""
    await asyncio.sleep(0)  # the tasks send their calls first: a call of our own goes out at once
    await toy.call(Toy.seen)


async def test_calls_answers_and_arguments(launch: Launch):
    toy = await launch("toy", {}, Toy, start=5)
    assert await toy.call(Toy.add) == 6
    assert await toy.call(Toy.add, number=4) == 10
    assert await asyncio.gather(*(toy.call(Toy.add) for _ in range(5))) == [11, 12, 13, 14, 15], "in order"
    assert await toy.call(doubled, 3) == 33, "a function of a module, with the worker first"
    content = os.urandom(50_000_000)
    assert await toy.call(Toy.echo, content) == content
    await toy.close()
    late = await launch("late", {}, made_late, 7)
    assert await late.call(Toy.add) == 8
    await late.close()
    louder = await launch("louder", {}, LouderToy)
    assert await louder.call(Toy.add) == 100, "as Python has it: its own class's method"
    await louder.close()


async def test_async_methods_run_beside_plain_ones(launch: Launch):
    toy = await launch("toy", {}, Toy)
    working = asyncio.ensure_future(toy.call(Toy.await_note, "async", then="plain"))
    await all_begun(toy)
    assert await toy.call(Toy.seen) == []
    await toy.call(Toy.take, "async")
    await working
    assert await toy.call(Toy.seen) == ["async", "plain"]
    await toy.close()


async def test_a_cancelled_call_is_cancelled_on_the_other_side(launch: Launch):
    toy = await launch("toy", {}, Toy)
    begun = asyncio.ensure_future(toy.call(Toy.await_note, "cancelled", then="begun"))
    waiting = asyncio.ensure_future(toy.call(Toy.wait, "waiting"))
    queued = [asyncio.ensure_future(toy.call(Toy.work, 0.0, f"{number}")) for number in range(2)]
    await all_begun(toy)
    waiting.cancel()
    queued[0].cancel()
    for task in (waiting, queued[0]):
        with pytest.raises(asyncio.CancelledError):
            await task
    await toy.call(Toy.take, "cancelled")
    await asyncio.gather(begun, queued[1])
    expected = ["waiting cancelled", "cancelled", "begun", "1"]
    assert await toy.call(Toy.seen) == expected, "what had not begun is dropped"
    await toy.close()


async def test_a_start_that_is_cancelled_twice_ends_in_order():
    starting = asyncio.ensure_future(process.launch("cancelled", {}, never_made))
    while not (ends := [it for it in asyncio.all_tasks() if it.get_name() == "end of cancelled"]):  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(2):  # as where several start side by side: by what stops them, and by each other
        starting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.wait_for(asyncio.gather(*ends), 60)
    assert workers() == []


async def test_errors_are_what_they_were_and_say_where_they_came_from(launch: Launch):
    toy = await launch("the toy", {}, Toy)
    with pytest.raises(UserError, match=r"^give another number$"):
        await toy.call(Toy.fail, "user")
    with pytest.raises(FileNotFoundError, match="nothing there") as error:
        await toy.call(Toy.fail, "python")
    assert error.value.filename == "somewhere"
    with pytest.raises(RuntimeError, match=r"^Foreign: 3: not mine") as foreign:
        await toy.call(Toy.fail, "")
    [note] = foreign.value.__notes__
    assert note.startswith("In the toy:\n")
    assert "toys.py" in note
    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        await toy.call(Toy.cancels_itself)
    assert await toy.call(Toy.add) == 1, "it goes on"
    await toy.close()


async def test_a_worker_that_cannot_be_made_is_no_worker(launch: Launch):
    with pytest.raises(UserError, match="start below 0"):
        await launch("toy", {}, Toy, -1)
    assert workers() == []


async def test_closed_in_order(launch: Launch, tmp_path: Path):
    toy = await launch("toy", {}, Closing, tmp_path / "closed")
    working = asyncio.ensure_future(toy.call(Toy.await_note, "waiting cancelled", then="finished"))
    waiting = asyncio.ensure_future(toy.call(Toy.wait, "waiting"))
    await all_begun(toy)
    await toy.close(grace=60)
    assert (tmp_path / "closed").read_text() == "waiting cancelled finished"
    assert await toy.ended == "it was closed"
    with pytest.raises(WorkerLost, match=r"^toy ended: it was closed$"):
        await waiting
    await asyncio.gather(working, return_exceptions=True)
    with pytest.raises(WorkerLost, match=r"^toy ended: it was closed$"):
        await toy.call(Toy.add)
    await toy.close()
    assert workers() == []


async def test_what_waits_for_a_killed_worker_is_told(launch: Launch):
    toy = await launch("toy", {}, Toy)
    waiting = asyncio.ensure_future(toy.call(Toy.wait, "waiting"))
    await all_begun(toy)
    toy.kill()
    with pytest.raises(WorkerLost, match=r"^toy ended: "):
        await asyncio.wait_for(waiting, 60)
    assert "kill" in (await asyncio.wait_for(toy.ended, 60)).lower()
    await toy.close()


async def test_a_process_of_its_own():
    """Its environment is given; ours stays as it is; no script of ours runs again."""
    toy = await process.launch("toy 3", {"AREAL_TOY": "given"}, Toy)
    about = await toy.call(Toy.about)
    assert about == {
        "pid": toy.pid,
        "name": "areal toy 3",
        "session": toy.pid,
        "given": "given",
        "main": None,
        "heavy": [],
    }
    assert "AREAL_TOY" not in os.environ
    with pytest.raises((AttributeError, pickle.PicklingError)):
        await toy.call(lambda worker: 1)
    with pytest.raises((AttributeError, RuntimeError), match="local object"):
        await toy.call(Toy.not_portable)
    assert await toy.call(Toy.add) == 1
    await toy.close()


@pytest.mark.parametrize("first", ["PYGAME_HIDE_SUPPORT_PROMPT", "LC_CTYPE"])
async def test_a_process_has_its_name_whatever_is_first_in_its_environment(first: str):
    """Gymnasium changes one when it is imported, and Python the other."""
    ours, theirs = socket.socketpair()
    with ours:
        started = await process.spawn("toy 4", {first: ""} | dict(os.environ) | {first: "C"}, theirs)
        await until(lambda: psutil.Process(started.pid).cmdline()[:1] == ["areal toy 4"])
        started.kill()
        assert await started.wait() == "killed by SIGKILL"


async def test_how_a_process_ended_is_told():
    toy = await process.launch("toy", {}, Toy)
    with pytest.raises(WorkerLost, match=r"^toy ended: exit code 7$"):
        await asyncio.wait_for(toy.call(Toy.fail, "end"), 60)
    stopped = await process.launch("toy", {}, Toy)
    os.kill(stopped.pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(stopped.call(Toy.echo, bytes(30_000_000)))  # more than a socket holds
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    os.kill(stopped.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"^toy ended: killed by SIGKILL$"):
        await asyncio.wait_for(waiting, 60)
    assert await stopped.ended == "killed by SIGKILL"


def test_an_exit_code_names_its_signal():
    codes = {0: "exit code 0", 137: "exit code 137", -9: "killed by SIGKILL", -40: "killed by signal 40"}
    assert {code: how_ended(code) for code in codes} == codes


async def test_a_crash_ends_a_process_whatever_handlers_libraries_have(capfd: pytest.CaptureFixture[str]):
    toy = await process.launch("toy", {}, Toy)
    with pytest.raises(WorkerLost, match=r"^toy ended: killed by SIGSEGV$"):
        await asyncio.wait_for(toy.call(crash), 60)
    said = capfd.readouterr().err
    assert "Fatal Python error: Segmentation fault" in said
    assert "in crash\n" in said, "where it was"


async def test_a_process_that_reads_nothing_is_ended_when_it_is_closed():
    toy = await process.launch("toy", {}, Toy)
    os.kill(toy.pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(toy.call(Toy.echo, bytes(30_000_000)))
    await asyncio.sleep(0.1)
    await toy.close(grace=0.2)
    with pytest.raises(WorkerLost, match="it was closed"):
        await asyncio.wait_for(waiting, 60)
    assert workers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_to_all_processes_leaves_the_worker_to_the_run(number: signal.Signals):
    toy = await process.launch("toy", {}, Toy)
    os.kill(toy.pid, number)
    assert await toy.call(Toy.add) == 1
    await toy.close()


async def test_a_start_that_is_cancelled_leaves_nothing():
    starting = [asyncio.ensure_future(process.launch("toy", {}, never_made)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in starting:
        task.cancel()
    await asyncio.wait(starting)
    assert all(task.cancelled() for task in starting)
    assert workers() == []


PARENT = """
import asyncio
from children import workers
from toys import Toy
from areal.workers import process

async def main():
    toy = await process.launch("toy", {}, Toy)
    print(toy.pid, await toy.call(Toy.fork), await toy.call(Toy.spawn), flush=True)
    await toy.call(Toy.work, 1000, "")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_it(number: signal.Signals):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        ours = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(ours) == 3, "a worker, and its own children"
        if number == signal.SIGTERM:
            time.sleep(1)  # the spawned child is well on its way; else it has only begun
        parent.send_signal(number)
    assert psutil.wait_procs(ours, timeout=60)[1] == []


async def group_of_two(folder: Path, launch: Launch = process.launch) -> WorkerGroup[Rank]:
    async def start() -> list[Handle[Rank]]:
        return await side_by_side(*(launch(f"rank {rank}", {}, Rank, rank, folder) for rank in range(2)))

    group = WorkerGroup(start, LearnerLost, lambda reason: "; look into the log")
    await group.start()
    return group


async def test_a_group_does_the_same_on_all(tmp_path: Path, launch: Launch):
    group = await group_of_two(tmp_path, launch)
    assert await asyncio.gather(*(group.call(Rank.meet, f"{number}") for number in range(3))) == [0, 0, 0]
    # What all raise alike is raised once, and ends none of them.
    with pytest.raises(ValueError, match="a wrong number"):
        await group.call(Rank.fail, (0, 1))
    assert await group.call(Rank.meet, "again") == 0
    # A call that nobody waits for any more is made all the same, on all.
    given_up = asyncio.ensure_future(group.call(Rank.meet, "given up"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await group.call(Rank.meet, "after it") == 0
    assert count(tmp_path, "given up-*") == 2
    await group.close()
    assert workers() == []


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_group_ends_with_a_rank_that_is_killed(tmp_path: Path, rank: int):
    group = await group_of_two(tmp_path)
    waiting = asyncio.ensure_future(group.call(Rank.meet, "never", 3))
    await until(lambda: count(tmp_path, "never-*") == 2)
    os.kill((await pids(group))[rank], signal.SIGKILL)
    line = f"rank {rank} ended: killed by SIGKILL; look into the log"
    with pytest.raises(LearnerLost) as error:
        await asyncio.wait_for(waiting, 60)
    assert str(error.value) == line == await group.ended
    with pytest.raises(LearnerLost, match=f"^rank {rank} ended"):
        await group.call(Rank.meet, "later")
    await group.close()
    assert workers() == []


async def test_a_group_that_was_lost_is_started_again(tmp_path: Path):
    group = await group_of_two(tmp_path)
    before = await pids(group)
    waiting = asyncio.ensure_future(group.call(Rank.meet, "never", 3))
    await until(lambda: count(tmp_path, "never-*") == 2)
    os.kill(before[0], signal.SIGSTOP)
    os.kill(before[1], signal.SIGKILL)
    with pytest.raises(LearnerLost):
        await asyncio.wait_for(waiting, 60)
    first = group.ended
    starting = asyncio.ensure_future(group.start())
    with pytest.raises(LearnerLost, match="rank 1 ended"):
        await group.call(Rank.meet, "meanwhile")
    await starting
    assert not [pid for pid in before if psutil.pid_exists(pid)], "what they had is free"
    assert not group.ended.done()
    assert await group.call(Rank.meet, "again") == 0
    # It is lost as it was before, and closed.
    os.kill((await pids(group))[0], signal.SIGKILL)
    assert (await asyncio.wait_for(group.ended, 60)).startswith("rank 0 ended: killed by SIGKILL")
    assert first.result().startswith("rank 1 ended: killed by SIGKILL")
    await group.close()
    assert workers() == []


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_group_ends_with_a_rank_that_fails_alone(tmp_path: Path, rank: int):
    group = await group_of_two(tmp_path)
    with pytest.raises(ValueError, match="a wrong number"):
        await asyncio.wait_for(group.call(Rank.fail, (rank,), then_wait=True), 60)
    assert await group.ended == f"rank {rank} failed: ValueError: a wrong number"
    assert isinstance(group.error, ValueError), "which is no loss"
    with pytest.raises(LearnerLost, match="failed: ValueError"):
        await group.call(Rank.meet, "later")
    await group.close()
    assert workers() == []


async def test_a_rank_that_says_that_it_is_of_no_use_counts_as_ended(tmp_path: Path):
    group = await group_of_two(tmp_path)
    with pytest.raises(LearnerLost, match=r"^rank 1 ended: its GPU fell off the bus; look into the log$"):
        await asyncio.wait_for(
            group.call(Rank.fail, (1,), then_wait=True, lost="its GPU fell off the bus"), 60
        )
    assert group.error is None
    await group.start()
    assert await group.call(Rank.meet, "again") == 0
    await group.close()
    assert workers() == []


async def test_a_group_that_does_something_is_closed_without_waiting(tmp_path: Path):
    group = await group_of_two(tmp_path)
    waiting = asyncio.ensure_future(group.call(Rank.meet, "never", 3))
    await until(lambda: count(tmp_path, "never-*") == 2)
    begun = time.monotonic()
    await group.close(grace=1000)
    assert time.monotonic() - begun < 500
    with pytest.raises(LearnerLost, match="closed"):
        await waiting
    assert workers() == []


def count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


async def pids(group: WorkerGroup[Rank]) -> list[int]:
    return [worker.pid for worker in group.workers if isinstance(worker, process.ProcessHandle)]
