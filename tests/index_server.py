"""A package index on loopback that tells the truth, or misbehaves where it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

Fault = Callable[["Answer"], None]


@dataclass
class Answer:
    """One request, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    path: str
    body: bytes | None
    content_type: str
    count: int

    def send(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.handler.send_response(status)
        fields = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(body) if length is None else length),
        }
        for name, value in {**fields, **(headers or {})}.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.handler.command != "HEAD":
            self.handler.wfile.write(body)

    def cut(self) -> None:
        """Close the connection at once."""
        self.handler.wfile.flush()
        self.handler.close_connection = True


@dataclass
class IndexServer:
    """Serves the files of `folder` as a simple repository. `faults` go before, by path.

    What is `told` of a file, by its name, stands on its project's page, too.
    """

    folder: Path
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    html: bool = False
    sizes: bool = True
    digests: bool = True
    ranges: bool = True
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    pages: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __enter__(self) -> IndexServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._answer(self)

            do_HEAD = do_GET  # noqa: N815 the name that http.server asks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((self.host, 0), Handler)
        self._server.daemon_threads = True
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if self.tls else ''}://{self.host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def index(self) -> str:
        return f"{self.url}/simple"

    def fetched(self) -> list[str]:
        """Name the files that were asked for."""
        return [path.removeprefix("/files/") for path, _ in self.requests if path.startswith("/files/")]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests.append((path, dict(handler.headers)))
        body, kind = self._content(path)
        answer = Answer(handler, path, body, kind, sum(seen == path for seen, _ in self.requests))
        fault = self.faults.get(path)
        if fault is not None:
            fault(answer)
        elif body is None:
            answer.send(404)
        else:
            self._send(answer, body, handler.headers.get("Range"))

    def _send(self, answer: Answer, body: bytes, wanted: str | None) -> None:
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            answer.send(206, body[start:], {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})
        else:
            answer.send(200, body)

    def _content(self, path: str) -> tuple[bytes | None, str]:
        if path in self.pages:
            return self.pages[path], "text/html"
        if path.startswith("/simple/"):
            return self._page(path.removeprefix("/simple/").rstrip("/"))
        file = self.folder / path.removeprefix("/files/")
        return (file.read_bytes() if file.is_file() else None), "application/octet-stream"

    def _page(self, project: str) -> tuple[bytes | None, str]:
        files = [
            f for f in sorted(self.folder.iterdir()) if canonicalize_name(f.name.partition("-")[0]) == project
        ]
        if not files:
            return None, "text/html"
        if self.html:
            links = (self._link(file) for file in files)
            return (
                f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(),
                "text/html; charset=utf-8",
            )
        page = {
            "meta": {"api-version": "1.1"},
            "name": project,
            "files": [self._entry(file) for file in files],
        }
        return json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"

    def _link(self, file: Path) -> str:
        fragment = f"#sha256={sha256(file.read_bytes()).hexdigest()}" if self.digests else ""
        return (
            f'<a href="../../files/{file.name}{fragment}" data-requires-python="&gt;=3.8">{file.name}</a>\n'
        )

    def _entry(self, file: Path) -> dict[str, Any]:
        data = file.read_bytes()
        entry: dict[str, Any] = {
            "filename": file.name,
            "url": f"../../files/{file.name}",
            "requires-python": ">=3.8",
            **self.told.get(file.name, {}),
        }
        entry["hashes"] = {"sha256": sha256(data).hexdigest()} if self.digests else {}
        return {**entry, "size": len(data)} if self.sizes else entry
