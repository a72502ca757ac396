"""Creates a new environment: a small, working package for its author to change."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from areal.errors import UserError
from areal.registry import env_names

_TEMPLATE = Path(__file__).with_name("template")
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def write_package(name: str, parent: Path) -> list[Path]:
    """Write the package of an environment to ``parent/name``.

    Args:
        name: the environment's id, such as ``my-env``; the module and the class are named after it.

    Returns:
        The files of the package.

    Raises:
        UserError: the name is invalid or taken, or the folder already exists.
    """
    folder = parent / name
    module = _checked(name).replace("-", "_")
    if folder.exists():
        raise UserError(f"{folder} already exists; choose another name, or remove it")
    words = {"my_env": module, "MyEnv": _class_name(module), "my-env": name}
    written = []
    for source in sorted(_TEMPLATE.rglob("*")):
        if not source.is_file() or source.suffix == ".pyc":
            continue
        target = folder / _renamed(str(source.relative_to(_TEMPLATE)), words)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = _renamed(source.read_text(encoding="utf-8"), words)
        target.write_text(text.replace("  # noqa: RUF012 (Gymnasium's own form)", ""), encoding="utf-8")
        written.append(target)
    return written


def _checked(name: str) -> str:
    if keyword.iskeyword(name):
        raise UserError(
            f"'{name}' is a Python keyword, which cannot be the name of a module; add a word, as in "
            f"{name}-env"
        )
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{name}' is not a valid name of an environment; use lower case, digits and -, as in my-env"
        )
    if name in env_names():
        raise UserError(
            f"the environment '{name}' already exists (see `areal env list`); choose another name"
        )
    if find_spec(name.replace("-", "_")) is not None:
        raise UserError(f"the Python module {name.replace('-', '_')} already exists; choose another name")
    return name


def _class_name(module: str) -> str:
    return "".join(word.capitalize() for word in module.split("_"))


def _renamed(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda found: words[found.group()], text)
