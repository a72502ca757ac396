"""Protects the page: checks clients and requests, and adds security headers to each answer."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text never becomes HTML, even by mistake
        "trusted-types 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """An ASGI application around another one.

    Args:
        app: the page.
        hosts: valid host names, without ports; a foreign page whose name resolves to this machine (DNS
            rebinding) has another one. Empty: any, because there is a token.
        token: start of every path; empty: none.
    """

    def __init__(self, app: Any, hosts: Iterable[str], token: str = "") -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        if scope["type"] != "http":
            return
        status, line, path = self._judge(scope)
        if status == 200:
            await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, guarded)
            return
        body = (line + "\n").encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": body})

    def _judge(self, scope: Any) -> tuple[int, str, str]:
        """Return the status of a request, a message, and the path of the page that is requested."""
        path = scope["path"]
        if self._hosts:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or _without_port(hosts[0]) not in self._hosts:
                return (
                    403,
                    "only this machine can open the page; use the address that areal has printed",
                    "",
                )
        if self._token:
            first, slash, rest = path.removeprefix("/").partition("/")
            if not slash or not secrets.compare_digest(first.encode(), self._token.encode()):
                return 404, "open the page with the complete address that areal has printed", ""
            path = f"/{rest}"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "the page is read-only", ""
        return 200, "", path


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
