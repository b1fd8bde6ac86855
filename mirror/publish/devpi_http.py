"""A user's indexes on a devpi-server elsewhere, by the server's HTTP interface.

Passwords are those of the environment or of netrc. What comes from the server, as errors too, is told
without its text: it may be any proxy's, and may repeat what was sent.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from mirror.destinations import RemoteDevpiSpec
from mirror.errors import RegistryError
from mirror.upstream.simple import JSON_TYPE

PASSWORD = "LOCKSTOCK_DEVPI_PASSWORD"  # noqa: S105 - the name of a variable
_T = TypeVar("_T")
_R = TypeVar("_R")
_AT_ONCE = 4  # devpi writes one at a time
_LIMITS = httpx.Timeout(15, read=300, write=300, pool=None)  # seconds; a write waits for those before it
_UNREACHED = "look at `url` under [remote_devpi], the network and the proxy; run it again"
_HINTS = {
    401: f"look at `user` under [remote_devpi] and at its password in {PASSWORD} or netrc",
    403: "the user has to own the indexes and may make and change them (--restrict-modify there)",
    404: _UNREACHED,
    409: "somebody else changes these indexes; each mirror needs a user of its own there",
    413: "a proxy in front of it allows only small uploads",
}


class Remote:
    """The indexes of the spec's user; logged in. All methods raise RegistryError."""

    def __init__(self, spec: RemoteDevpiSpec) -> None:
        self.spec = spec
        self._client = httpx.Client(timeout=_LIMITS, headers={"Accept": "application/json"})
        try:
            self._log_in()
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def indexes(self) -> dict[str, dict[str, Any]]:
        """Give the configurations of all indexes of the user by their names."""
        answer = self._ask("GET", "")
        with self._sense():
            return {str(name): dict(found) for name, found in answer.json()["result"]["indexes"].items()}

    def make(self, index: str, configuration: Mapping[str, Any]) -> None:
        """Make an empty index."""
        self._ask("PUT", index, json=dict(configuration))

    def modify(self, index: str, configuration: Mapping[str, Any]) -> None:
        """Change these keys of an index, at once for every reader."""
        self._ask("PATCH", index, json=dict(configuration))

    def delete(self, index: str, project: str = "") -> None:
        """Delete an index, or a project of it, with all files."""
        self._ask("DELETE", f"{index}/{quote(project, safe='')}" if project else index)

    def files(self, index: str) -> dict[str, dict[str, str]]:
        """Give the sha256 of all files of an index by project and name; empty where it tells none."""
        with self._sense():
            projects = [str(name) for name in self._ask("GET", index).json()["result"]["projects"]]
        return dict(self.each(lambda name: self._held(index, name), projects))

    def copy(self, source: str, target: str, project: str, version: str) -> None:
        """Let the server take all files of a release from one index to another."""
        place = f"{self.spec.user}/{target}"
        self._ask("POST", source, json={"name": project, "version": version, "targetindex": place})

    def upload(self, index: str, path: Path, filename: str, fields: Mapping[str, Any]) -> None:
        """Send one file, streamed."""
        form = {":action": "file_upload", **fields}
        with path.open("rb") as file:
            content = (filename, file, "application/octet-stream")
            self._ask("POST", f"{index}/", data=form, files={"content": content})

    def each(self, function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Do it for all, some at a time; the first failure ends it."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [pool.submit(function, item) for item in items]
            try:
                return [task.result() for task in as_completed(tasks)]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _held(self, index: str, project: str) -> tuple[str, dict[str, str]]:
        answer = self._ask(
            "GET", f"{index}/+simple/{quote(project, safe='')}/", headers={"Accept": JSON_TYPE}
        )
        with self._sense():
            files = answer.json()["files"]
            return project, {str(file["filename"]): str(file["hashes"].get("sha256")) for file in files}

    def _log_in(self) -> None:
        user = self.spec.user
        answer = self._send("POST", "+login", json={"user": user, "password": _password(self.spec)})
        with self._sense():
            token = str(answer.json()["result"]["password"])
        self._client.headers["X-Devpi-Auth"] = b64encode(f"{user}:{token}".encode()).decode("ascii")

    def _ask(self, method: str, place: str, **options: Any) -> httpx.Response:
        """Ask below the user's own part of the server."""
        return self._send(method, f"{self.spec.user}/{place}" if place else self.spec.user, **options)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, f"{self.spec.url}/{path}", **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise RegistryError(
                f"the remote devpi cannot be reached: {reason}", where=self.spec.place, hint=_UNREACHED
            ) from error
        if not answer.is_success:
            raise RegistryError(
                f"the remote devpi refuses: {method} /{path} gives {answer.status_code}",
                where=self.spec.place,
                hint=_HINTS.get(answer.status_code, "its log says why; run it again"),
            )
        return answer

    @contextmanager
    def _sense(self) -> Iterator[None]:
        """Tell of an answer that is none of devpi's."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                "what answers is no devpi-server", where=self.spec.place, hint=_UNREACHED
            ) from error


def _password(spec: RemoteDevpiSpec) -> str:
    """Find the user's password. Raises RegistryError."""
    if found := os.environ.get(PASSWORD):
        return found
    try:
        entry = netrc().authenticators(urlsplit(spec.url).hostname or "")
    except (OSError, NetrcParseError):
        entry = None
    if entry and entry[0] in ("", spec.user) and entry[2]:
        return entry[2]
    raise RegistryError(
        f"there is no password for the user {spec.user} of the remote devpi",
        where=spec.place,
        hint=f"put it into netrc, or into the environment as {PASSWORD}",
    )
