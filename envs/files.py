"""Environments as YAML files: an environment and its options.

    # data.yaml: data-v1, unless `env` names another
    data: problems.jsonl
    prompt: "{question} Answer with a number."
    verifier: number

    # mixture.yaml
    mixture:
      - {env: math-v1, weight: 2, options: {difficulty: 2}}
      - {env: data.yaml}

Relative paths are first looked up in the folder of the YAML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from areal.envs.places import is_here
from areal.errors import UserError

_FILES = ("data", "test_data", "verifier")
"""Options that may name a file."""


def read_env_file(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the environment that a file uses, and its options.

    Raises:
        UserError: the file cannot be read, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the environment {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: an environment must be a mapping of options, such as data: problems.jsonl")
    folder = path.resolve().parent
    options = {key: _beside(folder, value) if key in _FILES else value for key, value in content.items()}
    if "mixture" in options:
        members = options.pop("mixture")
        for member in members if isinstance(members, list) else []:
            if isinstance(member, dict) and "env" in member:
                member["env"] = _beside(folder, member["env"])
        return "mixture-v1", {"members": members, **options}
    base = str(_beside(folder, options.pop("env", "data-v1")))
    return base, options


def _beside(folder: Path, value: Any) -> Any:
    """Return a place in the folder of the YAML file, if it exists: ``data.jsonl:train``, ``file.py:Name``."""
    if not isinstance(value, str) or not value:
        return value
    return str(folder / value) if is_here(str(folder / value)) else value
