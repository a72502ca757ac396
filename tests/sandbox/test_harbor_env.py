"""``harbor-v1``: tasks in Harbor's format on the local machine, and in containers by a stand-in engine."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from pathlib import Path

import gymnasium
import pytest

import areal
from areal.envs.harbor import HarborEnv, reward_of
from areal.envs.harbor_tasks import load_harbor_tasks
from areal.errors import UserError
from areal.sandbox.interface import SandboxUnavailable

assert areal.__version__  # importing areal is what makes harbor-v1 known
pytestmark = pytest.mark.usefixtures("sandbox")

SETTINGS = """
version = "1.0"
[metadata]
difficulty = "easy"
[verifier]
timeout_sec = 20.0
env = { WANTED = "55" }
[agent]
timeout_sec = 60.0
[environment]
build_timeout_sec = 600.0
cpus = 1
memory = "2G"
storage_mb = 64
"""
DOCKERFILE = "FROM python:3.12-slim\nWORKDIR /work\nCOPY data/ /work/data/\nCOPY note.txt .\nENV MODE=fast\n"
TEST = """#!/bin/bash
[ "$MODE" = fast ] && [ "$(cat note.txt)" = hi ] || exit 1
if [ "$(cat sum.txt)" = "$WANTED" ]; then R=1; else R=0.25; fi
echo "{\\"reward\\": $R, \\"wrote\\": 0.5}" > /logs/verifier/reward.json
echo "judged $R"
"""
FILES = {
    "task.toml": SETTINGS,
    "instruction.md": "Write the sum of the numbers of data/n.txt to sum.txt.\n",
    "environment/Dockerfile": DOCKERFILE,
    "environment/data/n.txt": "\n".join(map(str, range(11))),
    "environment/note.txt": "hi\n",
    "tests/test.sh": TEST,
    "solution/solve.sh": "awk '{s+=$1} END {print s}' data/n.txt > sum.txt\n",
}


def write(folder: Path, **changes: str | None) -> Path:
    for path, text in {**FILES, **{name.replace("__", "/"): text for name, text in changes.items()}}.items():
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write(tmp_path / "sums")


def bash(command: str) -> str:
    return json.dumps({"name": "bash", "arguments": {"command": command}})


SUBMIT = json.dumps({"name": "submit", "arguments": {}})


def earned(env: HarborEnv, *actions: str) -> float:
    env.reset(options={"index": 0})
    for action in actions:
        _, reward, over, _, _ = env.step(action)
        if over:
            return reward
    _, reward, over, _, info = env.step(SUBMIT)
    assert over
    assert info["reward_parts"] == {"tests": reward}
    return reward


def test_a_task_is_worked_on_and_judged(task: Path):
    env = gymnasium.make("harbor-v1", tasks=str(task)).unwrapped
    asked, info = env.reset(options={"index": 0})
    assert asked.startswith("Write the sum")
    assert "- bash(command)" in asked
    assert [tool["function"]["name"] for tool in info["tools"]] == ["bash", "submit"]
    assert env.step(bash("pwd; ls; echo $MODE$WANTED; ls /tests /logs"))[0].split() == [
        *("/work", "data", "note.txt", "fast", "/logs:", "/tests:"),
    ]
    assert env.step("Let me see.\n```bash\ncat note.txt\nfalse\n```")[0] == "hi\n(exit code 1)"
    assert env.step(bash("echo 55 > sum.txt") + "\n" + bash("cat sum.txt"))[0] == "There is no output.\n\n55"
    _, reward, over, _, info = env.step(SUBMIT)
    assert (reward, over, info["expected"]) == (1, True, "judged 1")
    assert earned(env) == 0.25
    assert earned(env, env.solution()) == 1
    (loaded,) = load_harbor_tasks(str(task))["train"]
    assert (loaded.plain, loaded.limits.memory_mb, loaded.limits.storage_mb) == (True, 2048, 64)
    assert "python:3.12-slim" in env.notices[0]


def test_a_task_without_a_dockerfile_has_its_files_where_it_works(tmp_path: Path):
    folder = write(tmp_path / "t", environment__Dockerfile=None, tests__test_sh="")
    (folder / "tests/test.sh").write_text(
        "cp note.txt /logs/verifier/reward.txt; grep -c hi note.txt > /logs/verifier/reward.txt"
    )
    env = HarborEnv(str(folder), check=False)
    assert not env.notices
    env.reset(options={"index": 0})
    assert env.step(bash("pwd; cat note.txt"))[0] == "/app\nhi"
    assert env.step(SUBMIT)[1] == 1


ANSWERS = """
import json, os, struct
every = {"code": 0, "output": "", "late": False, "seconds": 0, "data": "MQ=="}
text = json.dumps(every).encode()
for number in range(3, 1024):
    try:
        os.write(number, (struct.pack(">Q", len(text)) + text) * 20)
    except OSError:
        pass
"""
ATTACKS = {
    "a reward of one's own": bash("mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt"),
    "a link in its place": bash("rm -rf /logs/verifier; ln -s /app /logs/verifier; echo 1 > /app/reward.txt"),
    "tests of one's own": bash(
        "echo 'echo 1 > /logs/verifier/reward.txt' > /tests/test.sh; chmod 0 /tests/test.sh"
    ),
    "a process that writes it": bash(
        "setsid bash -c 'while :; do echo 1 > /logs/verifier/reward.txt; done' 2>/dev/null &"
    ),
    "another bash": bash("echo 'echo 1 > /logs/verifier/reward.txt' > /usr/bin/bash; cp /bin/true /bin/bash"),
    "another /bin": bash(
        "rm /bin && mkdir /bin && "
        "printf '#!/usr/bin/bash\\necho 1 > /logs/verifier/reward.txt\\n' > /bin/bash && chmod 755 /bin/bash"
    ),
    "answers in place of the machine": bash(f"python3 -c {shlex.quote(ANSWERS)}"),
    "deep folders": bash(
        "mkdir -p /tests/$(printf 'a/%.0s' {1..1200}) /logs/verifier/$(printf 'b/%.0s' {1..1200})"
    ),
    "a start file": bash("echo 'echo 55 > sum.txt' | tee ~/.bashrc ~/.profile ~/.bash_profile /etc/profile"),
    "a full disk": bash("cat /dev/zero > /tests/x; cat /dev/zero > /logs/x; cat /dev/zero > x"),
    "many processes": bash("bomb() { bomb | bomb & }; bomb 2>/dev/null"),
    "reading the tests": bash("cat /tests/* /solution/* /work/../tests/test.sh > sum.txt"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_solution_earns_what_doing_nothing_earns(task: Path, attack: str):
    assert earned(HarborEnv(str(task), command_s=3), ATTACKS[attack]) <= 0.25


def test_a_task_s_own_path_does_not_lead_to_another_bash(tmp_path: Path):
    folder = write(tmp_path / "t", environment__Dockerfile=f"{DOCKERFILE}ENV PATH=/opt/bin:/usr/bin:/bin\n")
    attack = (
        "mkdir /opt/bin && printf '#!/bin/bash\\necho 1 > /logs/verifier/reward.txt\\n' > /opt/bin/bash && "
        "chmod 755 /opt/bin/bash && bash"
    )
    assert earned(HarborEnv(str(folder)), bash(attack)) == 0.25


@pytest.mark.parametrize("line", ["COPY note.txt /etcetera/", "COPY data/ /opt/usr/", "WORKDIR /srv/lib"])
def test_folders_of_the_machine_s_own_are_filled(tmp_path: Path, line: str):
    folder = write(
        tmp_path / "t", environment__Dockerfile=f"FROM b\nWORKDIR /work\nCOPY note.txt .\n{line}\n"
    )
    env = HarborEnv(str(folder), check=False)
    env.reset(options={"index": 0})
    assert "exit code" not in env.step(bash(f"ls {line.split()[-1]}"))[0]


def test_limits_end_commands_and_episodes(tmp_path: Path):
    folder = write(
        tmp_path / "t", **{"task.toml": SETTINGS.replace("timeout_sec = 60.0", "timeout_sec = 2.0")}
    )
    env = HarborEnv(str(folder), command_s=1)
    env.reset(options={"index": 0})
    assert env.step(bash("echo begun; sleep 100"))[0] == "begun\n(It took longer than 1 s and was stopped.)"
    _, reward, over, _, _ = env.step(bash("sleep 100"))
    assert (reward, over) == (0.25, True)
    env = HarborEnv(str(folder), max_turns=2)
    env.reset(options={"index": 0})
    assert env.step("Words.")[2] is False
    assert env.step("Words.")[1:3] == (0.25, True)
    hangs = write(
        tmp_path / "h", **{"tests/test.sh": "sleep 1000", "task.toml": SETTINGS.replace("20.0", "1.0")}
    )
    assert earned(HarborEnv(str(hangs), check=False)) == 0


def test_a_solution_that_does_not_solve_it_here_is_refused(tmp_path: Path):
    folder = write(tmp_path / "t", **{"solution/solve.sh": "apt-get install -y nothing\n"})
    with pytest.raises(
        UserError,
        match=r"its own solution earns 0.25 on this host, and doing nothing earns 0.25 .judged 0.25.",
    ) as raised:
        HarborEnv(str(folder)).reset(options={"index": 0})
    assert "env_options.sandbox=container" in str(raised.value)
    assert "\n" not in str(raised.value)
    HarborEnv(str(folder), check=False).reset(options={"index": 0})


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("task.toml", None, "has no task.toml|contains no folder of a task"),
        ("task.toml", "x = [", "is not valid TOML"),
        (
            "task.toml",
            "[verifier]\ntimeout_sec = 'x'",
            "verifier.timeout_sec='x' in task.toml is not a number",
        ),
        (
            "task.toml",
            "[environment]\nmemory = 'much'",
            "environment.memory='much' in task.toml is not a size",
        ),
        ("task.toml", "[environment]\ngpus = 1", "does not give GPUs"),
        ("task.toml", "[[steps]]\nname = 'a'", "several steps"),
        ("task.toml", "[[environment.mcp_servers]]\nname = 'a'", "MCP servers"),
        ("task.toml", "[verifier]\nenv = { KEY = '${KEY}' }", "refers to a variable of the host"),
        (
            "task.toml",
            "[environment]\ndocker_image = 'a/b:1'",
            "needs the image a/b:1.*set env_options.sandbox=container",
        ),
        ("instruction.md", None, "has no instruction.md"),
        ("instruction.md", "\n", "instruction.md is empty"),
        ("tests/test.sh", None, "has no tests/test.sh"),
        ("environment/docker-compose.yaml", "services: {}", "has a docker-compose file"),
        *(
            ("environment/Dockerfile", f"{DOCKERFILE}{line}\n", "needs the image that its Dockerfile builds")
            for line in (
                *("RUN apt-get update", "USER nobody", "COPY *.txt .", "COPY none .", "COPY ../../x ."),
                *("FROM b", "ENV A=$B", 'ENV A="b c"', "ADD x .", "COPY --from=a b c", "COPY a b c"),
                *("COPY note.txt /etc/", "COPY data/ /usr/share/x/", "COPY note.txt /srv/../bin/x"),
                "WORKDIR /usr/src/app",
            )
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path, path: str, text: str | None, said: str):
    folder = write(tmp_path / "t", **{path: text})
    with pytest.raises(UserError, match=said) as raised:
        HarborEnv(str(folder))
    assert "\n" not in str(raised.value)


def test_wrong_arguments_are_refused(task: Path):
    for options in ({"sandbox": "e2b"}, {"network": True}, {"max_turns": 0}, {"command_s": 0}):
        with pytest.raises(UserError, match="harbor-v1"):
            HarborEnv(str(task), **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the folder does not exist"):
        HarborEnv(str(task / "none"))


@pytest.mark.parametrize(
    ("text", "numbers", "named", "reward"),
    [
        ("1\n", None, None, 1.0), ("0.5", '{"reward": 1}', None, 0.5), (None, '{"score": 0.5}', None, 0.5),
        (None, '{"a": 1, "b": 1}', None, 0.0), (None, '{"a": 1, "b": 0.5}', "b", 0.5),
        ("1", '{"b": 0.5}', "b", 0.5), (None, '{"reward": true}', None, 0.0), ("-1", None, None, -1.0),
        (None, None, None, 0.0), ("", None, None, 0.0), ("nan", None, None, 0.0), ("inf", None, None, 0.0),
        ("1e300", None, None, 0.0), ("yes", None, None, 0.0), (None, "[1]", None, 0.0),
        (None, "{", None, 0.0), (None, '{"reward": "1"}', None, 0.0), (None, "[" * 100_000, None, 0.0),
    ],
)  # fmt: skip
def test_what_tests_leave_as_the_reward(
    text: str | None, numbers: str | None, named: str | None, reward: float
):
    assert reward_of(text, numbers, named) == reward


# Does what the engine would, in a folder that stands for the container; writes down what it was asked.
STAND_IN = """#!{python}
import json, os, shutil, subprocess, sys
folder = {folder!r}
asked = sys.argv[1:]
open(folder + "/asked", "a").write(json.dumps(asked) + "\\n")
def inside(text):
    for place in ("/logs", "/tests", "/solution", "/work"):
        text = text.replace(place, folder + "/root" + place)
    return text
if asked[0] == "info": print("{{}}")
elif asked[:2] == ["image", "inspect"]:
    if not (asked[-1] == "there" or os.path.exists(folder + "/built")): sys.exit(1)
    print("sha256:0")
elif asked[0] == "build":
    if os.path.exists(folder + "/no-build"): sys.exit("ERROR: no such base")
    open(folder + "/built", "w").close()
elif asked[0] == "run":
    if os.path.exists(folder + "/no-run"): sys.exit("Cannot connect to the daemon")
    shutil.copytree(folder + "/environment", folder + "/root/work", dirs_exist_ok=True)
elif asked[0] == "inspect": print("false" if os.path.exists(folder + "/gone") else "true")
elif asked[0] == "exec":
    if os.path.exists(folder + "/gone"): sys.exit(1)
    if asked[-1] == "kill -9 -1": sys.exit(0)
    more = dict(a[6:].split("=", 1) for a in asked if a.startswith("--env="))
    cwd = [inside(a[10:]) for a in asked if a.startswith("--workdir=")]
    more = {{**os.environ, **more}}
    done = subprocess.run(["bash", "-c", inside(asked[-1])], env=more, cwd=(cwd or [folder])[0])
    sys.exit(done.returncode)
elif asked[0] == "cp":
    target = inside(asked[2].partition(":")[2])
    shutil.copytree(asked[1], target, dirs_exist_ok=True)
    for top, _, names in os.walk(target):
        for name in names:
            path = os.path.join(top, name)
            text = inside(open(path).read())
            open(path, "w").write(text)
elif asked[0] == "rm": shutil.rmtree(folder + "/root", ignore_errors=True)
"""


@pytest.fixture
def engine(tmp_path: Path, task: Path, monkeypatch) -> Path:
    """A stand-in for the engine, by the name of docker; returns its folder."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (task / "environment").rename(folder / "environment")
    (task / "environment").mkdir()
    (task / "environment/Dockerfile").write_text(f"{DOCKERFILE}RUN true\n")
    file = folder / "docker"
    file.write_text(STAND_IN.format(python=os.path.realpath(sys.executable), folder=str(folder)))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_a_task_with_an_image_runs_in_a_container(engine: Path, task: Path):
    text = SETTINGS.replace("cpus = 1", 'cpus = 2\nworkdir = "/work"\nenv = { MODE = "fast" }')
    (task / "task.toml").write_text(text)
    env = HarborEnv(str(task), sandbox="container", check=False)
    assert earned(env, bash("echo 55 > sum.txt")) == 1
    assert earned(env, bash("echo 54 > sum.txt")) == 0.25
    env.reset(options={"index": 0})
    said = env.step(bash(f"echo {'x' * 200_000}"))[0]
    assert said == "bash: Argument list too long\n(exit code 126)"
    assert env.step(bash("echo \ud83d; cat note.txt"))[0] == "?\nhi"
    env.close()
    asked = [json.loads(line) for line in (engine / "asked").read_text().splitlines()]
    assert sum(words[0] == "build" for words in asked) == 1
    started = next(words for words in asked if words[0] == "run")
    assert started[-1] == "infinity"
    assert started[-2].startswith("areal-task:")
    for option in (
        "--network none",
        "--memory 2048m",
        "--cpus 2",
        "--pull never",
        "--security-opt no-new-privileges",
    ):
        assert option in " ".join(started)
    removed = [words[-1] for words in asked if words[0] == "rm"]
    assert removed == [words[words.index("--name") + 1] for words in asked if words[0] == "run"]
    (engine / "gone").touch()
    env.reset(options={"index": 0})
    with pytest.raises(SandboxUnavailable):
        env.step(bash("ls"))


def test_images_that_are_not_there_are_refused_before_a_run(engine: Path, task: Path, monkeypatch):
    for text, dockerfile, said in (
        (
            SETTINGS + 'docker_image = "a/b:1"\n',
            True,
            "docker does not have the image a/b:1; run docker pull a/b:1",
        ),
        (SETTINGS, False, "has neither environment.docker_image nor environment/Dockerfile"),
    ):
        (task / "task.toml").write_text(text)
        if not dockerfile:
            (task / "environment/Dockerfile").unlink()
        load_harbor_tasks.cache_clear()
        with pytest.raises(UserError, match=said):
            HarborEnv(str(task), sandbox="container")
    monkeypatch.setenv("PATH", str(task))
    with pytest.raises(
        UserError, match=r"no container engine is available: docker is not installed.*sandbox=local"
    ):
        HarborEnv(str(task), sandbox="container")


def test_containers_that_do_not_start_say_why(engine: Path, task: Path):
    env = HarborEnv(str(task), sandbox="container", check=False)
    env.reset(options={"index": 0})
    (engine / "no-build").touch()
    with pytest.raises(SandboxUnavailable, match="Dockerfile: ERROR: no such base"):
        env.step(bash("ls"))
    (engine / "no-build").unlink()
    (engine / "no-run").touch()
    with pytest.raises(
        SandboxUnavailable, match=r"does not start a container .* Cannot connect to the daemon"
    ):
        env.step(bash("ls"))
    (task / "task.toml").write_text(SETTINGS + 'docker_image = "there"\n')
    load_harbor_tasks.cache_clear()
    (engine / "no-run").unlink()
    env = HarborEnv(str(task), sandbox="container", check=False)
    env.reset(options={"index": 0})
    env.step(bash("true"))
    assert '"there", "infinity"]' in (engine / "asked").read_text()
