"""Serves the page, to this machine only or to anyone who has its address."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from areal.errors import UserError, install_hint
from areal.listening import in_url, listen

if TYPE_CHECKING:
    from areal.viewer.app import Quiet
    from areal.viewer.watched import Watched

_GRACE = 1
"""Seconds for answers to finish at the end."""
_ROUND = 0.2
"""Maximum seconds of one step of indexing, for which a client may have to wait."""
_IDLE = 2.0
"""Interval in seconds of checks when everything is indexed."""


def serve(watched: Sequence[Watched], host: str = "127.0.0.1", port: int = 0) -> None:
    """Show runs and evaluations until Ctrl-C.

    Args:
        watched: the runs and evaluations to show.
        host: an address of this machine. If others can reach it, the page's address contains a random token.
        port: the port; 0: a free one.

    Raises:
        UserError: the address cannot be used.
        KeyboardInterrupt: at the end.
    """
    import uvicorn

    from areal.viewer.app import Quiet, make_app
    from areal.viewer.guard import Guard

    listening = listen(host, port)
    address, number = listening.getsockname()[:2]
    alone = ipaddress.ip_address(address).is_loopback
    token = "" if alone else secrets.token_urlsafe(24)
    hosts = {"127.0.0.1", "localhost", "[::1]", in_url(host), in_url(address)} if alone else ()
    quiet = Quiet()
    app = Guard(make_app(watched, quiet), hosts, token)
    ended = threading.Event()
    for each in watched:
        name = f"index of {each.name}"
        threading.Thread(target=_index, args=(each, ended, quiet), name=name, daemon=True).start()
    name = socket.gethostname() if ipaddress.ip_address(address).is_unspecified else in_url(host)
    shown = f"http://{name}:{number}/" + (f"{token}/" if token else "")
    print(f"{', '.join(each.name for each in watched)}: {shown} (press Ctrl-C to stop)", flush=True)
    try:
        uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_GRACE,
            )
        ).run([listening])
    finally:
        ended.set()


def _index(watched: Watched, ended: threading.Event, quiet: Quiet) -> None:
    """Keep an index up to date, so that clients need not wait; pauses while a client waits."""
    while not ended.is_set():
        quiet.wait(_IDLE)
        try:
            left = watched.index.update(_ROUND, go_on=quiet)
        except UserError:  # the page also needs the index, and shows the error
            return
        ended.wait(0.01 if left else _IDLE)


def require_framework() -> None:
    """Check that a server can start; raises UserError if it cannot."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"the page requires {error.name}; install it with {install_hint('view')}") from error
