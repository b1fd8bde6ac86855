"""A git repository with a small package, served over smart HTTP on loopback."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

_PROJECT = """\
[project]
name = "demo-git"
version = "1.2.3"
description = "Demo"
dependencies = ["idna"]
[build-system]
requires = ["flit_core"]
build-backend = "flit_core.buildapi"
[tool.flit.module]
name = "demo_git"
"""
_IDENTITY = ["-c", "user.name=A", "-c", "user.email=a@mail.example", "-c", "init.defaultBranch=main"]


class GitServer:
    """`url` is that of the repository, `commit` its only commit. `guard` is what must be in Authorization."""

    def __init__(self, folder: Path, guard: str | None = None) -> None:
        self._root = folder / "git"
        tree = folder / "tree"
        tree.mkdir(parents=True)
        (tree / "pyproject.toml").write_text(_PROJECT)
        (tree / "demo_git.py").write_text('"""Demo."""\n')
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "demo"]):
            _git(tree, *_IDENTITY, *command)
        self.commit = _git(tree, "rev-parse", "HEAD").decode().strip()
        _git(folder, "clone", "-q", "--bare", str(tree), str(self._root / "demo.git"))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._root, guard))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/demo.git"

    def __enter__(self) -> GitServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True).stdout


def _handler(root: Path, guard: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Runs `git http-backend`, git's own CGI program."""

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if guard and self.headers.get("Authorization") != guard:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            environment = {
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "CONTENT_LENGTH": str(len(body)),
                "PATH": "/usr/bin:/bin",
            }
            answer = subprocess.run(
                ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
            ).stdout
            head, _, content = answer.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
