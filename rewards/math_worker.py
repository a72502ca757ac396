"""A process that judges mathematics: reads pairs as JSON lines and writes verdicts as JSON lines.

:mod:`areal.rewards.math` starts it such that it imports math-verify, and no other part of areal. It always
ends when the process that started it ends: the kernel kills it, even if it is stopped, or its input ends. In
a check that hangs, the kernel enforces the limit of its CPU time, which no computation can block.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

from areal.lifetime import kill_with_parent

_DIGITS = 60
TROUBLE = 75
"""Exit code after a system error, such as a library that cannot be read."""


def equivalent(parse: Any, verify: Any, answer: str, target: str) -> bool:
    """Return whether math-verify considers ``answer`` equal to ``target``, and no numbers in them differ."""
    parsed_target = _parsed(parse, target)
    parsed_answer = _parsed(parse, answer)
    # The parent enforces time limits: math-verify's raise an exception that sympy may swallow.
    if not verify(parsed_target, parsed_answer, timeout_seconds=None):
        return False
    return not (parsed_target and parsed_answer and _differ(parsed_target[0], parsed_answer[0]))


def _parsed(parse: Any, text: str) -> list[Any]:
    """Parse as LaTeX in a box; if that fails, as plain text."""
    return parse(f"\\boxed{{{text}}}", parsing_timeout=None) or parse(text, parsing_timeout=None)


def _differ(a: Any, b: Any) -> bool:
    """Return whether two exact numbers differ, also within two objects of the same structure.

    math-verify rounds to 6 places and treats numbers below 1e-15 as 0, which must not decide a reward.
    """
    import sympy

    if not isinstance(a, sympy.Basic) or not isinstance(b, sympy.Basic):
        return False
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return _are_numbers(a, b) and _apart(a, b)
    same_shape = type(a) is type(b) and len(a.args) == len(b.args) and not isinstance(a, sympy.FiniteSet)
    return same_shape and any(_differ(x, y) for x, y in zip(a.args, b.args, strict=True))


def _are_numbers(*expressions: Any) -> bool:
    import sympy

    return all(not e.free_symbols and e.is_finite and not e.has(sympy.Float, "%") for e in expressions)


def _apart(a: Any, b: Any) -> bool:
    left, right = a.doit().evalf(_DIGITS), b.doit().evalf(_DIGITS)
    if not (left.is_number and right.is_number):
        return False
    hundredth = {abs(left * 100 - right), abs(left - right * 100)}  # percentages
    size = max(abs(left), abs(right))
    return bool(min(abs(left - right), *hundredth) > size * 10 ** -(_DIGITS // 2))


def main() -> None:
    """Answer until the input ends. Arguments: bytes of memory, and the id of the parent process."""
    memory, parent = map(int, sys.argv[1:])
    kill_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Verdicts have their own descriptor, so that output of a library cannot look like one.
    verdicts = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verdicts.write("ready\n")
    for line in sys.stdin:
        job = json.loads(line)
        # SIGPROF ends the process. It counts CPU time, so a slow or stopped machine does not matter.
        signal.setitimer(signal.ITIMER_PROF, job["limit"])
        try:
            equal = equivalent(parse, verify, job["answer"], job["target"])
        except (MemoryError, RecursionError):  # too large to parse: not an answer
            equal = False
        except (OSError, ImportError):
            os._exit(TROUBLE)
        signal.setitimer(signal.ITIMER_PROF, 0)
        verdicts.write(json.dumps(equal) + "\n")
