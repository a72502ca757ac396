"""Simulates many concurrent programs at minimal cost, so that benchmarks/endpoint.py measures the server.

The script reads ``{"port": …, "path": …, "keys": [key, …], "bodies": [body, …]}`` from standard input. For
each key, it makes one call after the other until it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any


async def program(work: dict[str, Any], key: str, bodies: Iterator[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", work["port"])
    head = (
        f"POST {work['path']} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    while True:
        body = next(bodies)
        writer.write(head.replace("{length}", str(len(body))).encode() + body)
        response = await reader.readuntil(b"\r\n\r\n")
        length = int(response.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        if not response.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"{response!r} {content!r}")


async def main() -> None:
    work = json.load(sys.stdin)
    bodies = itertools.cycle([body.encode() for body in work["bodies"]])
    await asyncio.gather(*(program(work, key, bodies) for key in work["keys"]))


if __name__ == "__main__":
    asyncio.run(main())
