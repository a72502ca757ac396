"""Tasks in Harbor's format: ``task.toml``, ``instruction.md``, ``environment/``, ``tests/``, ``solution/``.

The format is Harbor's (https://www.harborframework.com/docs/tasks). This file reads what a task with one step
in one container needs, and refuses tasks that need more, naming the feature.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from areal.envs.task_folders import read_tasks, read_text
from areal.errors import UserError
from areal.sandbox.machine import MachineLimits

MARK = "task.toml"
_PLAIN = {"FROM", "WORKDIR", "COPY", "ENV", "LABEL"}
"""Dockerfile instructions for which no image must be built: files are copied, and the base has the rest."""
_OF_THE_IMAGE = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev")
"""Top-level folders that are read-only on a local machine."""
_UNSUPPORTED = {
    "steps": "several steps",
    "environment.mcp_servers": "MCP servers",
    "environment.healthcheck": "a health check",
    "verifier.environment": "a separate environment for the tests",
    "verifier.collect": "commands that collect artifacts",
}
_MEMORY = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


@dataclass(frozen=True, slots=True)
class Copied:
    """A file or folder of ``environment/`` that the Dockerfile copies."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class HarborTask:
    """A task.

    Attributes:
        name: name of its folder.
        problem: the instruction.
        folder: the folder of the task.
        image: the image that the task names; None: it names none.
        dockerfile: whether it has a Dockerfile.
        base: the base image of the Dockerfile; empty if it adds more than files and variables.
        copied: files that the Dockerfile copies, if ``base`` is not empty.
        workdir: working directory of commands; None: that of the image.
        variables: environment variables of the environment, the tests and the solution.
        agent_s: time limit of all commands of an episode together, in seconds.
        verifier_s: time limit of the tests, in seconds.
        build_s: time limit of building the image, in seconds.
        limits: limits of the machine.
    """

    name: str
    problem: str
    folder: Path
    image: str | None
    dockerfile: bool
    base: str
    copied: tuple[Copied, ...]
    workdir: str | None
    variables: dict[str, dict[str, str]] = field(hash=False)
    agent_s: float
    verifier_s: float
    build_s: float
    limits: MachineLimits

    @property
    def plain(self) -> bool:
        """Return whether it needs no image, because it only adds files."""
        return self.image is None and (not self.dockerfile or bool(self.base))


@lru_cache(maxsize=8)
def load_harbor_tasks(place: str) -> dict[str, list[HarborTask]]:
    """Return the tasks in a folder by split; raises UserError if one cannot be read."""
    return read_tasks("harbor-v1", place, MARK, _task)


def _task(folder: Path) -> HarborTask:
    told = f"harbor-v1: {folder}"
    try:
        settings = tomllib.loads(read_text(folder / MARK, told))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{told}: {MARK} is not valid TOML: {error}") from error
    for path, what in _UNSUPPORTED.items():
        if _at(settings, path):
            raise UserError(f"{told}: {path} in {MARK} requests {what}, which harbor-v1 does not support")
    environment = folder / "environment"
    if any((environment / f"docker-compose.{end}").is_file() for end in ("yaml", "yml")):
        raise UserError(
            f"{told} has a docker-compose file, and harbor-v1 supports only tasks with one container"
        )
    if _at(settings, "environment.gpus"):
        raise UserError(f"{told}: environment.gpus: harbor-v1 does not give GPUs to machines")
    instruction = read_text(folder / "instruction.md", told).strip()
    if not instruction:
        raise UserError(f"{told}: instruction.md is empty")
    if not (folder / "tests/test.sh").is_file():
        raise UserError(f"{told} has no tests/test.sh")
    image, dockerfile = _at(settings, "environment.docker_image"), (environment / "Dockerfile").is_file()
    brought = _Brought()
    if dockerfile:
        brought = _read_dockerfile(read_text(environment / "Dockerfile", told), environment)
    elif environment.is_dir():
        brought = _Brought(copied=(Copied(environment, "."),))
    variables = {part: _variables(settings, part, told) for part in ("environment", "verifier", "solution")}
    variables["environment"] = {**brought.variables, **variables["environment"]}
    seconds = {
        name: _number(settings, path, default, told)
        for name, path, default in (
            ("agent_s", "agent.timeout_sec", 600.0),
            ("verifier_s", "verifier.timeout_sec", 600.0),
            ("build_s", "environment.build_timeout_sec", 600.0),
        )
    }
    limits = MachineLimits(
        memory_mb=int(_size(settings, "memory", 2048, told)),
        storage_mb=int(_size(settings, "storage", 10240, told)),
        cpus=_number(settings, "environment.cpus", 1.0, told),
    )
    given = _at(settings, "environment.workdir")
    return HarborTask(
        name=folder.name,
        problem=instruction,
        folder=folder,
        image=image,
        dockerfile=dockerfile,
        base=brought.base,
        copied=brought.copied,
        workdir=str(given) if given else brought.workdir,
        variables=variables,
        limits=limits,
        **seconds,
    )


@dataclass(frozen=True, slots=True)
class _Brought:
    """The additions of a Dockerfile to its base image; the base is empty if they require a build."""

    base: str = ""
    copied: tuple[Copied, ...] = ()
    workdir: str | None = None
    variables: dict[str, str] = field(default_factory=dict)


def _read_dockerfile(text: str, environment: Path) -> _Brought:
    base, workdir, copied, variables = "", "/", list[Copied](), dict[str, str]()
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, rest = words[0].upper(), words[1:]
        if name not in _PLAIN or not rest or (name == "FROM" and (base or len(rest) > 1)):
            return _Brought()
        if name == "FROM":
            base = rest[0]
        elif name == "WORKDIR":
            workdir = _joined(workdir, rest[0])
            if _of_the_image(workdir):
                return _Brought()
        elif name == "ENV":
            if not all("=" in word for word in rest) or any(sign in line for sign in "$\"'\\"):
                return _Brought()
            variables |= {word.partition("=")[0]: word.partition("=")[2] for word in rest}
        elif name == "COPY":
            one = _copied(rest, workdir, environment)
            if one is None or _changes_image(one):
                return _Brought()
            copied.append(one)
    return _Brought(base, tuple(copied), workdir, variables) if base else _Brought()


def _copied(words: list[str], workdir: str, environment: Path) -> Copied | None:
    """Return what an instruction copies; None: it is not a single file or folder, copied unchanged."""
    if len(words) != 2 or any(sign in "".join(words) for sign in "$*?[") or words[0].startswith("-"):
        return None
    source, target = environment / words[0], _joined(workdir, words[1])
    if not source.exists() or not source.resolve().is_relative_to(environment.resolve()):
        return None
    into = words[1].endswith(("/", "."))
    return Copied(source, _joined(target, source.name) if source.is_file() and into else target)


def _changes_image(copied: Copied) -> bool:
    """Return whether a file is copied into the programs and settings of the image."""
    placed = [copied.target]
    if copied.source.is_dir():
        placed += [
            f"{copied.target}/{path.relative_to(copied.source).as_posix()}"
            for path in copied.source.rglob("*")
            if path.is_file()
        ]
    return any(map(_of_the_image, placed))


def _of_the_image(path: str) -> bool:
    return os.path.normpath(path).strip("/").partition("/")[0] in _OF_THE_IMAGE


def _joined(folder: str, path: str) -> str:
    return str((Path(folder) / path.rstrip("/")).as_posix()) if path != "." else folder


def _at(settings: Mapping[str, Any], path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(settings: Mapping[str, Any], path: str, default: float, told: str) -> float:
    value = _at(settings, path)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise UserError(f"{told}: {path}={value!r} in {MARK} is not a number above 0")
    return float(value)


def _size(settings: Mapping[str, Any], name: str, default: float, told: str) -> float:
    """Return a size in MiB: ``memory_mb = 2048``, or the older ``memory = "2G"``."""
    old = _at(settings, f"environment.{name}")
    if old is None:
        return _number(settings, f"environment.{name}_mb", default, told)
    text = str(old).upper().removesuffix("B").removesuffix("I")
    try:
        return float(text[:-1]) * _MEMORY[text[-1]]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{told}: environment.{name}={old!r} in {MARK} is not a size, such as '2G'"
        ) from error


def _variables(settings: Mapping[str, Any], part: str, told: str) -> dict[str, str]:
    found = _at(settings, f"{part}.env") or {}
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{told}: {part}.env in {MARK} is not a table of strings")
    for name, value in found.items():
        if "${" in value:
            raise UserError(
                f"{told}: {part}.env.{name}={value!r} refers to a variable of the host, which tasks cannot "
                "read; write its value"
            )
    return dict(found)
