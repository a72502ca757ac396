"""The process that judges mathematics: reads pairs as JSON lines, answers with verdicts as JSON lines.

Run as a script by :mod:`areal.rewards.math`, so that it imports math-verify and nothing of areal. Whatever
happens to the process that started it, it ends: at the end of its input, or, in a check that hangs, by the
kernel's alarm, which no computation can hold off.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any


def equivalent(parse: Any, verify: Any, answer: str, target: str) -> bool:
    """Say whether math-verify takes ``answer`` for ``target``."""
    parsed_target = _parsed(parse, target)
    parsed_answer = _parsed(parse, answer)
    # Time limits are the parent's: math-verify's own rest on an exception that sympy may swallow.
    return bool(verify(parsed_target, parsed_answer, timeout_seconds=None))


def _parsed(parse: Any, text: str) -> list[Any]:
    """Parse as LaTeX in a box; what that does not understand, as it stands."""
    return parse(f"\\boxed{{{text}}}", parsing_timeout=None) or parse(text, parsing_timeout=None)


def main() -> None:
    """Answer until the input ends. Arguments: seconds of one check, bytes of memory."""
    limit, memory = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Verdicts have a descriptor of their own: what a library prints must not look like one.
    verdicts = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verdicts.write("ready\n")
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, limit + 1)
        try:
            equal = equivalent(parse, verify, job["answer"], job["target"])
        except (MemoryError, RecursionError):  # too big to understand: not an answer
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        verdicts.write(json.dumps(equal) + "\n")


if __name__ == "__main__":
    main()
