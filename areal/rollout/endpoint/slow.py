"""A slow response: its head is sent first, followed by keep-alives until the response is complete.

Clients abandon a call without any data (Node's after 300 s). A status cannot be changed once the head is
sent, so an error is then reported in the protocol's form within a stream. A JSON body breaks off instead, as
if the server were lost: clients know that they have no response, and may call again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from areal.rollout.endpoint.wire import Refusal, WireFormat

_BLANK = b"\n"
"""White space that may precede a JSON body."""


class SlowResponse(Response):
    """Waits for a response and sends it.

    Args:
        answering: creates the response; raises Refusal.
        wire: the protocol of the events; None: the response is JSON.
        every: interval in seconds of the keep-alives; the first is sent at once.
        refused: called with the exception of ``answering``.
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
        """Send the response, according to ASGI."""
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
                if self._wire is None:  # the server closes a connection with an incomplete response
                    return
                content = self._wire.error_event(refusal)
            await send({"type": "http.response.body", "body": content})
        finally:
            self._answering.cancel()
            await asyncio.wait({self._answering})
