"""``repo-v1``: its tasks tell a solution from what is none, and nothing but a solution earns a reward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium
import pytest

import areal
from areal.envs import repo
from areal.envs.repo import RepoEnv
from areal.envs.repo_tasks import SHIPPED, RepoTask, hidden_tests, load_repo_tasks
from areal.envs.repo_tools import TOOLS
from areal.envs.tool_calls import calls_of
from areal.errors import UserError
from areal.rewards.code import CodeVerifier
from areal.sandbox.interface import Calls, Job, Outcome, Sandbox, SandboxLimits

assert areal.__version__  # importing areal is what makes repo-v1 known
pytestmark = pytest.mark.usefixtures("sandbox")
TASKS = [
    (split, index, task) for split, tasks in load_repo_tasks().items() for index, task in enumerate(tasks)
]
PAGES = next((split, index) for split, index, task in TASKS if task.name == "pages")
MENDED = {"path": "pager/pages.py", "old": "items // size)", "new": "-(-items // size))"}


@pytest.fixture
def env():
    return RepoEnv(time_limit=5)


def call(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def begin(env: RepoEnv, split: str = PAGES[0], index: int = PAGES[1]) -> str:
    return env.reset(options={"split": split, "index": index})[0]


def earned(env: RepoEnv, *actions: str) -> tuple[float, dict[str, float]]:
    """Return the reward of an episode in the task ``pages``, and its parts."""
    begin(env)
    for action in actions:
        _, reward, over, _, _ = env.step(action)
        assert not over
        assert reward == 0
    _, reward, over, _, info = env.step(call("submit"))
    assert over
    return reward, info["reward_parts"]


@pytest.mark.parametrize(("split", "index", "task"), TASKS, ids=[task.name for *_, task in TASKS])
def test_each_task_tells_a_solution_from_what_is_none(env: RepoEnv, split: str, index: int, task: RepoTask):
    assert 3 <= len(task.files) <= 6
    before = env.judge(task, task.files)
    assert before == {test.name: test.kind == "pass_to_pass" for test in task.tests}
    assert set(before.values()) == {True, False}
    begin(env, split, index)
    assert env.step(call("run_tests"))[0].endswith(" passed, 0 failed")
    _, reward, over, _, info = env.step(env.solution())
    assert (reward, over, info["reward_parts"]) == (1.0, True, {"fail_to_pass": 1.0, "pass_to_pass": 0.0})
    assert all(info["tests"].values())
    # The visible tests do not tell: they pass before and after.
    solved = {**task.files, **task.solution}
    assert set(solved) == set(task.files), "each solution changes files that are there"
    # What a test expects never enters the process that runs it.
    for test in task.tests:
        secrets = [text for text in strings(test.expected) if len(text) > 12]
        assert not [text for text in secrets if text in test.source or repr(text) in test.source]


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for item in value for text in strings(item)] if isinstance(value, list | tuple) else []


def test_the_tools(env: RepoEnv):
    asked, info = env.reset(options={"split": PAGES[0], "index": PAGES[1]})
    assert [tool["function"]["name"] for tool in info["tools"]] == [tool.name for tool in TOOLS]
    assert all(f"- {tool.name}(" in asked for tool in TOOLS)
    assert "pager/links.py" in env.step(call("list_files"))[0].splitlines()
    shown = env.step(call("read_file", path="pager/pages.py", start=6, end=6))[0]
    assert shown == "6\t    if size < 1:\n(the file continues to line 17)"
    assert env.step(call("read_file", path="pager/links.py", start=10))[0].startswith("10\t")
    assert (
        env.step(call("search", text="items // size"))[0]
        == "pager/pages.py:8:     return max(1, items // size)"
    )
    assert env.step(call("search", text="items // size", path="tests"))[0] == "No line contains it."
    assert env.step(call("edit_file", **MENDED))[0] == "pager/pages.py was written."
    said = env.step(
        f"First a test.\n{call('write_file', path='tests/test_new.py', content=NEW)}\n{call('run_tests')}"
    )[0]
    assert "FAILED tests/test_new.py test_wrong" in said
    assert "AssertionError: four\n" in said
    assert said.endswith("4 passed, 1 failed")
    assert env.step(call("run_tests", path="tests/test_pages.py"))[0] == "3 passed, 0 failed"
    assert env.step(call("delete_file", path="tests/test_new.py"))[0] == "tests/test_new.py was deleted."
    assert env.step(call("submit"))[1] == 1


NEW = """
from pager import page_count

def test_right():
    assert page_count(10, 3) == 4

def test_wrong():
    assert page_count(10, 3) == 5, "four"
"""


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shell", {"command": "ls"}, "the tool 'shell' does not exist"),
        ("read_file", {}, "read_file needs the argument 'path'"),
        ("read_file", {"path": 3}, "'path' must be of type string"),
        ("read_file", {"path": "a.py", "lines": 3}, "has no argument 'lines'"),
        ("read_file", {"path": "pager/none.py"}, "the file 'pager/none.py' does not exist"),
        ("read_file", {"path": "pager/pages.py", "start": 900}, "has only the lines 1 to "),
        ("read_file", {"path": "pager/pages.py", "start": True}, "'start' must be of type integer"),
        (
            "edit_file",
            {"path": "pager/pages.py", "old": "return", "new": ""},
            "the text to replace occurs 2 times",
        ),
        (
            "edit_file",
            {"path": "pager/pages.py", "old": "", "new": "x"},
            "the text to replace occurs 0 times",
        ),
        (
            "edit_file",
            {"path": "pager/pages.py", "old": "nothing", "new": "x"},
            "the text to replace occurs 0 times",
        ),
        ("search", {"text": ""}, "no text to search for"),
        ("write_file", {"path": "pager", "content": ""}, "cannot be a file"),
        ("write_file", {"path": "pager/pages.py/more.py", "content": ""}, "cannot be a file"),
        ("write_file", {"path": "big.txt", "content": "x" * 300_000}, "would be too large"),
        ("run_tests", {"path": "tests/test_none.py"}, "does not exist"),
        *(
            ("write_file", {"path": path, "content": "x"}, "is not a path in the repository")
            for path in ("/etc/passwd", "../x", "a/../../x", "", "a//b", "a\0b", ".", "a\\b", "x" * 150)
        ),
    ],
)
def test_calls_that_cannot_be_made_say_why(env: RepoEnv, name: str, arguments: dict[str, object], said: str):
    begin(env)
    observation, reward, over, _, _ = env.step(call(name, **arguments))
    assert observation.startswith("Error: ")
    assert said in observation
    assert (reward, over) == (0, False)


def test_calls_are_found_in_words_and_tags():
    one, two = call("list_files"), call("read_file", path="a{}.py")
    assert [
        asked.name for asked in calls_of(f"So:\n```json\n{one}\n```\n<tool_call>\n{two}\n</tool_call>")
    ] == [
        "list_files",
        "read_file",
    ]
    assert [asked.arguments for asked in calls_of(f"<tool_call>{two}</tool_call>")] == [{"path": "a{}.py"}]
    assert calls_of(f"<think>\n{one}\n</think>\n{two}")[0].name == "read_file"
    mark = json.dumps({"name": "write_file", "arguments": {"path": "a", "text": "a </think> b"}})
    for begun in ("", f"<think>\n{one}\n</think>\n", f"{one}\n{mark}\nso\n</think>\n"):
        assert [asked.name for asked in calls_of(f"{begun}{mark}\n{two}")] == ["write_file", "read_file"]
    for none in (
        "",
        "list_files()",
        '{"name": 3}',
        f"I say {one}",
        '{"name": "x"',
        "{" * 10_000,
        '{"a":\n' * 10_000,
    ):
        assert calls_of(none) == []


GUESS = """
import sys, types
class Right(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def page_count(*a): return Right(4)
def page(*a): return Right(4)
def links(*a): return Right(4)
"""
REPLACING = """
import sys, threading, time
from pager.links import links
from pager.pages import page, page_count
frame = sys._getframe()
while frame:
    names = [name for name in frame.f_code.co_names if name.startswith("test")]
    frame.f_globals.update({name: (lambda: [4, 1]) for name in names})
    frame = frame.f_back
def late():
    while True:
        module = sys.modules.get("solution")
        for name in list(vars(module or late)):
            if name.startswith("test"):
                setattr(module, name, lambda: [4, 1])
        time.sleep(0.001)
threading.Thread(target=late, daemon=True).start()
"""
FORGING = """
import os
for number in range(3, 20):
    try:
        os.write(number, b'["returned", [true]]\\n' * 20)
    except OSError:
        pass
os._exit(0)
"""
ATTACKS = {
    "nothing": [],
    "tests deleted": [call("delete_file", path="tests/test_pages.py")],
    "tests emptied": [call("write_file", path="tests/test_pages.py", content="")],
    "conftest": [
        call("write_file", path="conftest.py", content="def pytest_runtest_makereport(*a): return 'passed'")
    ],
    "sitecustomize": [
        call(
            "write_file",
            path=f"{name}.py",
            content="import unittest; unittest.TestCase.run = lambda *a: None",
        )
        for name in ("sitecustomize", "usercustomize", "unittest", "pytest", "copy")
    ],
    "exit": [call("write_file", path="pager/__init__.py", content="import sys; sys.exit(0)")],
    "hard exit": [call("write_file", path="pager/__init__.py", content="import os; os._exit(0)")],
    "exit in the function": [
        call(
            "edit_file", path="pager/pages.py", old="return max(1, items // size)", new="raise SystemExit(0)"
        )
    ],
    "endless import": [call("write_file", path="pager/__init__.py", content="while True: pass")],
    "endless function": [
        call("edit_file", path="pager/pages.py", old="return max(1, items // size)", new="while True: pass")
    ],
    "equal to all": [call("write_file", path="pager/__init__.py", content=GUESS)],
    "tests replaced in memory": [call("write_file", path="pager/__init__.py", content=REPLACING)],
    "forged frames": [call("write_file", path="pager/__init__.py", content=FORGING)],
    "memory": [
        call(
            "write_file", path="pager/__init__.py", content="x = [bytearray(1 << 20) for _ in range(1 << 20)]"
        )
    ],
    "no Python": [call("write_file", path="pager/pages.py", content="def page_count(:")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_a_solution_earns(attack: str):
    reward, parts = earned(RepoEnv(time_limit=2), *ATTACKS[attack])
    assert reward == sum(parts.values()) == 0
    # The next episode, on the same sandbox, is not harmed.
    assert earned(RepoEnv(), call("edit_file", **MENDED))[0] == 1


@pytest.mark.parametrize("attack", ["tests deleted", "tests emptied", "conftest"])
def test_what_is_done_beside_a_solution_does_not_matter(env: RepoEnv, attack: str):
    assert earned(env, *ATTACKS[attack], call("edit_file", **MENDED))[0] == 1


PRYING = f"""
import os, sys
def test_pry():
    found = []
    for top in ("/", {str(SHIPPED)!r}, "..", "/proc", "/tmp"):
        for folder, _, names in os.walk(top):
            found += [os.path.join(folder, n) for n in names if n in ("fail_to_pass.py", "pass_to_pass.py")]
    try:
        os.symlink("/etc/passwd", "pager/link.py")
        os.symlink({str(SHIPPED)!r}, "tasks")
        found.append(open("pager/link.py").read())
        found += os.listdir("tasks")
    except OSError:
        pass
    print("found", found)
"""
FILLING = """
def test_fill():
    size = 0
    try:
        with open("full", "wb") as file:
            while True:
                size += file.write(bytes(1 << 20))
    except OSError:
        print("full after", size < 1 << 27)
        raise
"""


def test_code_that_runs_finds_nothing_and_leaves_nothing(env: RepoEnv):
    begin(env)
    said = env.step(f"{call('write_file', path='tests/test_pry.py', content=PRYING)}\n{call('run_tests')}")[0]
    assert "found []" in said
    assert (
        "Error: the file 'pager/link.py' does not exist"
        in env.step(call("read_file", path="pager/link.py"))[0]
    )
    env.step(call("write_file", path="tests/test_fill.py", content=FILLING))
    assert "full" not in env.step(call("list_files"))[0].splitlines()
    env.step(call("run_tests"))
    for path in ("tests/test_pry.py", "tests/test_fill.py"):
        env.step(call("delete_file", path=path))
    assert env.step(call("run_tests"))[0] == "3 passed, 0 failed"


def test_visible_tests_that_never_end_are_stopped():
    env = RepoEnv(time_limit=1)
    begin(env)
    for body in ("while True: pass", "print('x' * 10**9)", "import os; os._exit(0)", "raise SystemExit"):
        env.step(call("write_file", path="tests/test_new.py", content=f"def test():\n    {body}\n"))
        observation, reward, over, _, _ = env.step(call("run_tests"))
        assert "4 passed" not in observation  # three are there besides
        assert len(observation) < 10_000
        assert (reward, over) == (0, False)


def test_half_a_solution():
    """More than there was before is a part of the reward only where that is asked for; a loss costs all."""
    half = call("edit_file", path="pager/pages.py", old="items // size)", new="items // size + (items > 9))")
    breaks = call("edit_file", path="pager/pages.py", old="raise IndexError", new="raise KeyError")
    whole = call("edit_file", **MENDED)
    for partial, actions, parts in (
        (False, [half], (0.0, 0.0)),
        (False, [whole, breaks], (1.0, -1.0)),
        (False, [breaks], (0.0, 0.0)),
        (True, [whole], (1.0, 0.0)),
        (True, [breaks], (0.0, 0.0)),
    ):
        reward, got = earned(RepoEnv(partial=partial), *actions)
        assert got == {"fail_to_pass": parts[0], "pass_to_pass": parts[1]}
        assert reward == sum(parts)
    share = earned(
        RepoEnv(partial=True),
        call("edit_file", path="pager/links.py", old="items, size) + 1", new="items + 2, size) + 1"),
    )
    assert share[1]["fail_to_pass"] == pytest.approx(1 / 3)


DIFF = """The count was rounded down.
```diff
--- a/pager/pages.py
+++ b/pager/pages.py
@@ -7,2 +7,2 @@
         raise ValueError("a page has at least one item")
-    return max(1, items // size)
+    return max(1, -(-items // size))
```
"""


def test_a_diff_is_an_answer():
    env = RepoEnv(show_files=True, describe_tools=False)
    asked = begin(env)
    assert "return max(1, items // size)" in asked
    assert "read_file" not in asked
    assert env.step(DIFF)[1:3] == (1.0, True)
    for wrong in (
        DIFF.replace("items // size)\n+", "items / size)\n+"),
        DIFF.replace("pager/pages", "../pages"),
    ):
        begin(env)
        said, reward, over, _, _ = env.step(wrong)
        assert said.startswith("Error: the diff cannot be applied")
        assert (reward, over) == (0, True)


def test_turns_end_and_the_repository_is_judged_as_it_is():
    env = RepoEnv(max_turns=2)
    begin(env)
    assert env.step(call("edit_file", **MENDED))[2] is False
    assert env.step("I am done.")[1:3] == (1.0, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        RepoEnv().step("")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name in ("pages", "slugs"):
        shutil.copytree(SHIPPED / "train" / name, tmp_path / "tasks" / name)
    return tmp_path / "tasks"


def test_tasks_of_a_user(tasks: Path):
    env = gymnasium.make("repo-v1", tasks=str(tasks)).unwrapped
    assert [env.count(split) for split in ("train", "test")] == [1, 1]
    shutil.rmtree(tasks / "slugs" / "solution")
    repo.load_repo_tasks.cache_clear()
    for split in ("train", "test"):
        begin(env, split, 0)
    one = RepoEnv(tasks=str(tasks / "pages"))
    assert [one.count(split) for split in ("train", "test")] == [1, 1]


ASSERTED = "def test_x():\n    assert 1 + 1 == 2\n"


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("pages/issue.md", None, "has no issue.md"),
        ("pages/issue.md", " ", "issue.md is empty"),
        ("pages/hidden/fail_to_pass.py", None, "has no fail_to_pass.py"),
        ("pages/hidden/fail_to_pass.py", "def test_x(:", "is not valid Python"),
        ("pages/hidden/fail_to_pass.py", "x = 1\n", "has no function test_"),
        (
            "pages/hidden/fail_to_pass.py",
            "def test_x():\n    assert 1 < 2\n",
            "fail_to_pass.py:2: it is not of the form",
        ),
        (
            "pages/hidden/fail_to_pass.py",
            "def test_x():\n    for i in (1,):\n        assert i == 1\n",
            "not in a loop",
        ),
        ("pages/hidden/fail_to_pass.py", "def test_x():\n    assert f() == True\n", "can be guessed"),
        ("pages/hidden/fail_to_pass.py", "def test_x(a):\n    assert a == 3\n", "has arguments"),
        (
            "pages/hidden/pass_to_pass.py",
            ASSERTED + "def test_links_lead_to_the_last_page():\n    assert 1 == 1\n",
            "the same name",
        ),
        ("pages/repo/data.bin", b"\xff\xfe", "cannot be read as UTF-8"),
    ],
)
def test_a_bad_layout_is_refused_in_one_line(tasks: Path, path: str, text: str | bytes | None, said: str):
    file = tasks / path
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as raised:
        RepoEnv(tasks=str(tasks))
    assert "\n" not in str(raised.value)
    assert "pages" in str(raised.value)


def test_links_and_missing_folders_are_refused(tasks: Path):
    (tasks / "pages/repo/link.py").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        RepoEnv(tasks=str(tasks))
    shutil.rmtree(tasks / "pages/repo")
    with pytest.raises(UserError, match="has no folder repo"):
        RepoEnv(tasks=str(tasks))
    shutil.rmtree(tasks)
    with pytest.raises(UserError, match="the folder does not exist"):
        RepoEnv(tasks=str(tasks))
    tasks.mkdir()
    with pytest.raises(UserError, match="contains no folder of a task"):
        RepoEnv(tasks=str(tasks))


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("hidden/fail_to_pass.py", ASSERTED, "test_x of fail_to_pass passes before any change"),
        (
            "hidden/pass_to_pass.py",
            "def test_x():\n    assert 1 == 2\n",
            "test_x of pass_to_pass fails before",
        ),
        ("solution/pager/pages.py", "page = page_count = max\n", "its own solution fails the hidden test"),
    ],
)
def test_tasks_whose_tests_do_not_tell_are_refused(tasks: Path, path: str, text: str, said: str):
    (tasks / "pages" / path).write_text(text)
    with pytest.raises(UserError, match=said):
        begin(RepoEnv(tasks=str(tasks / "pages")), "train", 0)


class Late:
    """A sandbox that says of the first runs of a hidden test that they took too long, as on a busy host."""

    def __init__(self, inner: Sandbox, name: str, times: int) -> None:
        self.inner, self.name, self.left = inner, name, times

    async def run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        if isinstance(job.mode, Calls) and job.mode.calls[0].function == self.name and self.left:
            self.left -= 1
            return Outcome("timeout")
        return await self.inner.run(job, limits)


@pytest.mark.parametrize(
    ("late", "times", "said"),
    [
        ("pass_to_pass", 1, None),
        # Before the change it may take long, as where the issue is a loop without end.
        ("fail_to_pass", 2, None),
        ("pass_to_pass", 2, "before any change the hidden test {} took longer than time_limit, 6 s"),
        ("fail_to_pass", 3, "with its own solution the hidden test {} took longer than time_limit, 6 s"),
    ],
)
def test_a_hidden_test_that_takes_long_has_a_second_run(
    sandbox: Sandbox, tasks: Path, late: str, times: int, said: str | None
):
    (task,) = load_repo_tasks(str(tasks / "pages"))["train"]
    name = next(test.name for test in task.tests if test.kind == late)
    env = RepoEnv(tasks=str(tasks / "pages"))
    env._verifier = CodeVerifier(Late(sandbox, name, times))
    if said is None:
        begin(env, "train", 0)
        return
    with pytest.raises(UserError, match=said.format(name)):
        begin(env, "train", 0)


def test_hidden_tests_keep_what_they_saw():
    """A value is taken as it was when it was asserted."""
    body = "    a = [1]\n    assert a == [1]\n    with open(0):\n        assert a == [2, 3]\n"
    (test,) = hidden_tests(f'"""Doc."""\ndef test_x():\n{body}', "fail_to_pass", "here")
    assert test.expected == [[1], [2, 3]]
    assert "== " not in test.source
    names: dict[str, object] = {"open": lambda _: memoryview(b"")}
    exec(test.source, names)
    assert names["test_x"]() == [[1], [1]]
