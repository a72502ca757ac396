"""The exceptions that are no defect: the user can mend it, or asked for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Its message is one line: what is wrong, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class Interrupted(Exception):
    """The user stopped the run. Its message says how to go on.

    The command line prints the message without a traceback and exits with status 130.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
