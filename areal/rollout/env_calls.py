"""Calls of environments, which are on threads of this process or in processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal.threads import Outcome

Make = Callable[[], Any]
"""Makes an environment."""


class CallFailed(Exception):
    """A call raised, or its process ended. The message goes on after the name of the call."""


@dataclass(frozen=True, slots=True)
class EnvCall:
    """A call in flight.

    Attributes:
        outcome: the result, or else a UserError, an EnvironmentFailure or a CallFailed.
        location: returns where the call is, as far as that is known.
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
