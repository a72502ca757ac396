"""Calls of environments, on threads of this process or in separate processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal.threads import Outcome

Make = Callable[[], Any]
"""Creates an environment."""


class CallFailed(Exception):
    """A call raised, or its process ended. The message follows the name of the call."""


@dataclass(frozen=True, slots=True)
class EnvCall:
    """A call in flight.

    Attributes:
        outcome: the result, or a UserError, an EnvironmentFailure or a CallFailed.
        location: returns the position of the call, as far as it is known.
        abandon: called if the call is not over when nobody waits for it any longer.
        rest: called if it is over.
    """

    outcome: asyncio.Future[Outcome]
    location: Callable[[], str]
    abandon: Callable[[], None] = lambda: None
    rest: Callable[[], None] = lambda: None

    def end(self) -> None:
        """Stop waiting for the call."""
        if self.outcome.done():
            self.rest()
        else:
            self.outcome.cancel()
            self.abandon()
