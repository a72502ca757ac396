"""A hub of data sets on this machine, as far as ``datasets`` asks one: a folder OWNER/NAME is a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
REVISIONS = ("main", "v1", COMMIT)
_INFO = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yields the address, and the list of what is asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, folder, asked))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, asked: list[str], *others: Any) -> None:
        self._folder, self._asked = folder, asked
        super().__init__(*others)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._asked.append(f"{self.command} {path}")
        for pattern, answer in ((_INFO, self._info), (_TREE, self._tree), (_FILE, self._file)):
            if found := pattern.fullmatch(path):
                name, revision, rest = (*found.groups(), None)[:3]
                if not (self._folder / name).is_dir():
                    return self._refuse("RepoNotFound")
                if revision not in (None, *REVISIONS):
                    return self._refuse("RevisionNotFound")
                return answer(name, rest or "")
        return self._refuse("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._refuse("EntryNotFound")

    def _info(self, name: str, _: str) -> None:
        files = [{"rfilename": found["path"]} for found in self._listed(name, "", True)]
        self._send({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files})

    def _tree(self, name: str, inside: str) -> None:
        if not (self._folder / name / inside).is_dir():
            return self._refuse("EntryNotFound")
        return self._send(self._listed(name, inside, "recursive=true" in self.path.lower()))

    def _listed(self, name: str, inside: str, deep: bool) -> list[dict[str, Any]]:
        top = self._folder / name
        found = sorted((top / inside).rglob("*") if deep else (top / inside).iterdir())
        return [
            {"type": "file", "path": str(p.relative_to(top)), "size": p.stat().st_size, "oid": _digest(p)}
            if p.is_file()
            else {"type": "directory", "path": str(p.relative_to(top)), "oid": "0" * 40}
            for p in found
        ]

    def _file(self, name: str, inside: str) -> None:
        path = self._folder / name / inside
        if not path.is_file():
            return self._refuse("EntryNotFound")
        data, head = path.read_bytes(), {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
            head["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(data[first : last + 1], 206, head)
        return self._send(data, 200, {**head, "Accept-Ranges": "bytes"})

    def _refuse(self, code: str) -> None:
        self._send(
            {"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT}
        )

    def _send(self, body: Any, status: int = 200, head: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**(head or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
