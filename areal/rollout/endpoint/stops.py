"""Stop strings of single calls; the model samples them, and the program does not see them (``shown.py``)."""

from __future__ import annotations

from areal.agents.interface import Reply
from areal.rollout.endpoint.wire import ModelRequest, Refusal


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Read stop strings; empty ones are refused."""
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise Refusal(400, "stop: an empty string would end every response immediately; remove it")
    return found


def stop_position(request: ModelRequest, reply: Reply) -> tuple[int, str] | None:
    """Return the first of the request's own stop strings in a reply, with its position, if there is one."""
    if reply.finish != "stop":
        return None
    found = [(position, text) for text in request.limits.stop if (position := reply.text.find(text)) >= 0]
    return min(found, default=None)
