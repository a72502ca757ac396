"""Instructions that a program can check, such as "at least 300 words" (IFEval, arXiv 2311.07911)."""

from __future__ import annotations

import contextlib
import json
import sys
from functools import cache
from typing import Any

from areal.errors import UserError, install_hint
from areal.thoughts import after_thought


def instructions(action: str, expected: str) -> float | None:
    """Return 1 if a response follows all instructions (the paper's strict prompt-level accuracy).

    Args:
        action: the response; thoughts are ignored.
        expected: JSON with ``prompt``, ``instruction_id_list`` and ``kwargs``, as IFEval's rows have them.

    Raises:
        UserError: the checkers or their data are not installed, or an instruction is unknown.
    """
    row, said = json.loads(expected), after_thought(action)
    given = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    return float(all(_follows(said, row["prompt"], name, options) for name, options in given))


def _follows(said: str, prompt: str, name: str, options: dict[str, Any]) -> bool:
    known = _checkers()
    if name not in known:
        raise UserError(
            f"instructions: the checker '{name}' does not exist (known: {', '.join(sorted(known))})"
        )
    checker = known[name](name)
    checker.build_description(**{key: value for key, value in options.items() if value})
    if "prompt" in (checker.get_instruction_args() or ()):
        checker.build_description(prompt=prompt)
    try:
        return bool(said.strip()) and bool(checker.check_following(said))
    except RecursionError:  # a check parses JSON, whose brackets are nested too deeply
        return False
    except LookupError as error:
        if type(error) is not LookupError:  # NLTK raises no subclass
            raise
        raise UserError(
            f"instructions: NLTK lacks the data to check '{name}'; with network access, run python -m "
            "nltk.downloader punkt_tab"
        ) from error


@cache
def _checkers() -> dict[str, Any]:
    """Return the checkers of lm-evaluation-harness, which are those of the paper's authors, by name."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it downloads
            from langdetect import DetectorFactory
            from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    except ModuleNotFoundError as error:
        raise UserError(f"verifier 'instructions': {install_hint('ifeval')}") from error
    # Without a seed, it detects different languages in the same short text.
    factory: Any = DetectorFactory
    factory.seed = 0
    return INSTRUCTION_DICT
