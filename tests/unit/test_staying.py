"""Commands that stay: one process for many episodes, and what becomes of those that do not stay."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from program_runs import CHILD, left, python, resources, run_episode
from until import until

from areal.agents.program import Program, ProgramFailed, ProgramKilled
from areal.errors import UserError
from areal.host_limits import HostLimits

READS = "import json, os, sys, time\nsays = lambda **s: print(json.dumps(s), flush=True)\n"
LOOP = READS + "for line in sys.stdin:\n    given = json.loads(line)\n"


async def episodes(program: Program, count: int) -> list[tuple[list[str], list[float]] | str]:
    """Run episodes one after the other; return of each its actions and rewards, or its failure."""
    found: list[tuple[list[str], list[float]] | str] = []
    for _ in range(count):
        try:
            found.append(await run_episode(program))
        except ProgramFailed as error:
            found.append(str(error))
    return found


async def test_a_process_runs_one_episode_after_the_other_with_the_key_of_each():
    before = resources()
    code = LOOP + (
        "    import urllib.request\n"
        "    assert os.environ['OPENAI_BASE_URL'].startswith('http://127.0.0.1:')\n"
        "    assert not os.environ['OPENAI_API_KEY'].startswith('sk-')\n"
        "    body = {'model': 'm', 'messages': [{'role': 'user', 'content': given['task']}]}\n"
        "    key = {'authorization': 'Bearer ' + given['api_key']}\n"
        "    url = given['base_url'] + '/chat/completions'\n"
        "    call = urllib.request.Request(url, json.dumps(body).encode(), key)\n"
        "    said = json.load(urllib.request.urlopen(call))['choices'][0]['message']['content']\n"
        "    says(answer=f'{os.getpid()} {said}\\nü')\n"
    )
    os.environ["http_proxy"] = "http://127.0.0.1:9"
    program = Program(command=python(code), workers=2)
    try:
        first, second = [run[0] for run in await episodes(program, 2)]
    finally:
        del os.environ["http_proxy"]
    assert first == second, "by the same process"
    [answer] = first
    assert answer.endswith(" 1 messages\nü"), "an answer may have several lines"
    assert int(answer.split()[0]) in {child.pid for child in psutil.Process().children()}, "it stays"
    await program.close()
    assert not await left(before)


async def test_a_reward_an_error_and_text_that_is_no_text():
    code = LOOP + (
        "    number = globals().get('number', 0) + 1\n"
        "    says(**[{}, {'reward': 0.5}, {'error': 'a bad day'}, {'reward': True},"
        " {'answer': '\\ud800 ' + str(os.getpid())}][number])\n"
    )
    program = Program(command=python(code), workers=1)
    reward, failure, yes, answer = await episodes(program, 4)
    assert (reward, failure, yes) == (([], [0.5]), "the program failed: a bad day", ([], [1.0]))
    assert answer[0][0].startswith("? "), "an error of one episode leaves the process as it is"
    await program.close()


async def test_as_many_episodes_run_at_once_as_there_are_processes(tmp_path: Path):
    code = LOOP + (
        f"    open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w')\n"
        f"    while len(os.listdir({str(tmp_path)!r})) < 3: time.sleep(0.01)\n"
        "    says(answer=str(os.getpid()))\n"
    )
    program = Program(command=python(code), workers=3)
    answers = await asyncio.gather(*(run_episode(program) for _ in range(9)))
    assert len({actions[0] for actions, _ in answers}) == 3
    await program.close()


GARBAGE = r"the program wrote .*; it must answer a task with one line"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("sys.exit('bad luck')", r"exited with code 1: bad luck$"),
        ("os.kill(os.getpid(), 9)", r"was killed by SIGKILL$"),
        ("os.close(0); os.close(1); time.sleep(99)", r"was killed by SIGKILL$"),
        ("print('x', file=sys.stderr, flush=True); time.sleep(99)", r"did not answer within 3 s: x$"),
        ("print('loading…', flush=True); time.sleep(99)", GARBAGE),
        ("print('42', flush=True)", GARBAGE),
        ("print('{\"answer\": 4}', flush=True)", GARBAGE),
        ("print('{\"reward\": NaN}', flush=True)", GARBAGE),
        ('print(\'{"answer": "a", "reward": 1}\', flush=True)', GARBAGE),
        ("print('[' * 100000, flush=True)", GARBAGE),
        ("sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush()", GARBAGE),
        ("print('{\"answer\": \"half', end='', flush=True); sys.exit(3)", "exited with code 3$"),
        ("sys.stdout.write('x' * 2**21)", "wrote more than 1048576 bytes"),
        ("while True: print('x' * 9999, file=sys.stderr)", "wrote more than 1048576 bytes"),
        (CHILD.replace("\n", "; ") + "sys.exit(4)", "exited with code 4$"),
        (CHILD.replace("\n", "; ") + "time.sleep(99)", "did not answer within 3 s"),
    ],
)
async def test_a_process_that_fails_costs_its_episode_and_is_started_anew(
    code: str, found: str, tmp_path: Path
):
    """The first process fails with its second task; what it started ends with it."""
    before, once = resources(), tmp_path / "once"
    whole = (
        LOOP
        + f"    if os.path.exists({str(once)!r}) and not os.path.exists({str(once)!r} + '2'):\n"
        + f"        open({str(once)!r} + '2', 'w')\n        {code}\n"
        + f"    else: open({str(once)!r}, 'w'); says(answer='4')\n"
    )
    program = Program(command=python(whole), workers=1, time_limit=3)
    begun = time.monotonic()
    first, failure, third = await episodes(program, 3)
    assert first == third == (["4"], [])
    with pytest.raises(ProgramFailed, match=found):
        raise ProgramFailed(failure)
    assert time.monotonic() - begun < 60, "nobody waits for a child that holds the output open"
    await program.close()
    assert not await left(before)


async def test_what_a_process_says_unasked_is_no_answer_to_the_next_task(tmp_path: Path):
    before = resources()
    code = LOOP + f"    says(answer='4'); says(answer='5'); open({str(tmp_path / 'said')!r}, 'w')\n"
    program = Program(command=python(code), workers=1)
    for _ in range(3):
        assert await run_episode(program) == (["4"], [])
        await until((tmp_path / "said").exists)
        (tmp_path / "said").unlink()
        await asyncio.sleep(0.05)
    await program.close()
    assert not await left(before)


async def test_a_process_that_ends_after_each_answer_costs_no_episode():
    before = resources()
    program = Program(command=python(LOOP + "    says(answer=str(os.getpid())); sys.exit()"), workers=1)
    answers = []
    for _ in range(3):
        answers += (await run_episode(program))[0]
        assert not await left(before + Counter(dict.fromkeys(open_files(), 1))), "it has ended"
    assert len(set(answers)) == 3
    await program.close()
    assert not await left(before)


def open_files() -> list[str]:
    """What this process has open."""
    return [name for name in resources() if name.startswith("file ")]


async def test_an_episode_that_is_cancelled_ends_its_process(tmp_path: Path):
    before = resources()
    code = CHILD + LOOP + f"    open({str(tmp_path / 'asked')!r}, 'w')\n    time.sleep(99)"
    program = Program(command=python(code), workers=1)
    hanging = asyncio.create_task(run_episode(program))
    await until((tmp_path / "asked").exists)
    hanging.cancel()
    assert (await asyncio.wait({hanging}, timeout=60))[0]
    assert hanging.cancelled()
    assert not await left(before)
    await program.close()


async def test_an_episode_that_is_cancelled_at_any_moment_leaves_nothing():
    """While its process starts, while it answers, or while it is judged: this program fails at once."""
    before = resources()
    program = Program(command=python("print('no line of JSON')"), workers=1)
    for delay in range(0, 120, 4):
        going = asyncio.create_task(run_episode(program))
        await asyncio.sleep(delay / 1000)
        going.cancel()
        await asyncio.wait({going})
    await program.close()
    assert not await left(before)


async def test_a_process_that_the_out_of_memory_killer_ends_is_not_to_blame(tmp_path: Path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    kills = tmp_path / "memory.events"
    kills.write_text("oom_kill 0\n")
    code = LOOP + f"    open({str(kills)!r}, 'w').write('oom_kill 1\\n'); os.kill(os.getpid(), 9)"
    program = Program(command=python(code), workers=1, host=HostLimits(tmp_path, tmp_path))
    with pytest.raises(ProgramKilled, match="out-of-memory killer ended the program"):
        await run_episode(program)
    await program.close()


async def test_the_standard_input_ends_when_areal_is_killed(tmp_path: Path):
    """Nobody is left to kill the process; it ends as programs do."""
    code = READS + "given = sys.stdin.readline(); says(answer='4'); sys.stdin.read(); open(sys.argv[1], 'w')"
    ended = tmp_path / "ended"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLS_ITSELF.format(folder=str(Path(__file__).parent), code=code), str(ended)
    )
    assert await process.wait() == -9
    await until(ended.exists)


KILLS_ITSELF = """
import asyncio, os, sys
sys.path.insert(0, {folder!r})
from program_runs import python, run_episode
from areal.agents.program import Program

async def main():
    program = Program(command=python({code!r}) + " " + sys.argv[1], workers=1)
    assert await run_episode(program) == (["4"], [])
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_at_once_bounds_commands_and_functions(tmp_path: Path):
    code = (
        "import os, sys, time\nfolder = sys.argv[1]\nmine = f'{folder}/{os.getpid()}'\nopen(mine, 'w')\n"
        "time.sleep(0.2); print(len(os.listdir(folder))); os.unlink(mine)"
    )
    program = Program(command=f"{python(code)} {tmp_path}", at_once=2)
    answers = await asyncio.gather(*(run_episode(program) for _ in range(6)))
    assert max(int(actions[0]) for actions, _ in answers) <= 2

    async def solve(task: str, base_url: str, api_key: str) -> str:
        running.add(api_key)
        counts.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(api_key)
        return ""

    running: set[str] = set()
    counts: list[int] = []
    bounded, free = Program(solve, at_once=3), Program(solve)
    await asyncio.gather(*(run_episode(bounded) for _ in range(9)))
    assert max(counts) == 3
    counts.clear()
    await asyncio.gather(*(run_episode(free) for _ in range(9)))
    assert max(counts) > 3


async def solve(task: str, base_url: str, api_key: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"command": "true", "workers": -1}, "workers must be at least 0"),
        ({"command": "true", "at_once": 0}, "at_once at least 1"),
        ({"function": solve, "workers": 2}, "a function has no processes"),
        ({"command": "true", "workers": 2, "at_once": 2}, "remove agent_options.at_once"),
        ({"command": "no-such-program", "workers": 2}, "the program does not exist"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, found: str):
    with pytest.raises(UserError, match=found):
        Program(**options)
