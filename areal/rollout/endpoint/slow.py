"""A response that takes long: its head is sent first, and something to read now and then until it is there.

Clients give up a call of which they hear nothing (Node's after 300 s). A status cannot be taken back once the
head is sent, so an error is then said as the protocol says it within a stream; a JSON body breaks off, as it
does when a server is lost: clients know that they have no response, and may call again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from areal.rollout.endpoint.wire import Refusal, WireFormat

_BLANK = b"\n"
"""What may stand before a JSON body."""


class SlowResponse(Response):
    """Waits for a response and sends it.

    Args:
        answering: makes the response; raises Refusal.
        wire: the protocol of the events; None: the response is JSON.
        every: seconds between two signs of life; the first is sent at once.
        refused: is told what ``answering`` raised.
    """

    def __init__(
        self,
        answering: asyncio.Task[bytes],
        wire: WireFormat | None,
        every: float,
        refused: Callable[[Refusal], None],
    ) -> None:
        super().__init__(media_type="application/json" if wire is None else "text/event-stream")
        del self.headers["content-length"]
        self._answering = answering
        self._wire = wire
        self._every = every
        self._refused = refused

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it, as ASGI has it."""
        sign = _BLANK if self._wire is None else self._wire.SIGN_OF_LIFE
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._answering.done():
                await send({"type": "http.response.body", "body": sign, "more_body": True})
                await asyncio.wait({self._answering}, timeout=self._every)
            try:
                content = self._answering.result()
            except Refusal as refusal:
                self._refused(refusal)
                if self._wire is None:  # the server closes a connection whose response is not complete
                    return
                content = self._wire.error_event(refusal)
            await send({"type": "http.response.body", "body": content})
        finally:
            self._answering.cancel()
            await asyncio.wait({self._answering})
