"""Requests that survive what networks do: retries, resumption, limits."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from isal.igzip import IGzipFile
from isal.igzip_lib import IsalError

from mirror.errors import NotFoundUpstreamError, TruncatedError, UpstreamError
from mirror.store import Expected, Incoming, Store
from mirror.upstream.curl import Answer, Sink
from mirror.upstream.failures import UnreachableError
from mirror.upstream.http import Client
from mirror.upstream.settings import expanded, without_secrets

_T = TypeVar("_T")
_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = frozenset({404, 410})
_OK = 200
_A_PART = 206
_NO_SUCH_RANGE = 416
_LONGEST_PAUSE = 30.0
_PAGE_LIMIT = 64 << 20
_CHUNK = 1 << 18
_GZIP: Any = IGzipFile  # it has no types
_NO_GZIP: Any = (OSError, IsalError)
_MAGIC = b"\x1f\x8b"
STALL_SECONDS = 30.0
STALL_RATE = 1000  # bytes per second

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What an upstream answers, unpacked, and the URL that it was found at in the end."""

    kind: str
    body: bytes
    url: str


async def get(
    client: Client, url: str, retries: int, headers: Mapping[str, str] | None = None
) -> Page | None:
    """Read a page of at most 64 MiB; None where there is none (404). Raises UpstreamError."""

    async def attempt() -> Page | None:
        body = bytearray()

        def begin(answer: Answer) -> Sink | None:
            if answer.status in _GONE:
                return None
            _check_status(answer)
            body.clear()
            pace = _Pace(url)

            def take(piece: bytes) -> None:
                body.extend(piece)
                pace.count(len(piece))
                if len(body) > _PAGE_LIMIT:
                    raise UpstreamError("the page has no end", where=without_secrets(url))

            return take

        answer = await client.ask(url, begin, {"Accept-Encoding": "gzip", **(headers or {})})
        if answer.status in _GONE:
            return None
        page = _unpacked(body, answer.header("Content-Encoding").lower(), url)
        return Page(kind=answer.header("Content-Type"), body=page, url=answer.url)

    return await _retry(attempt, retries)


def _unpacked(body: bytearray, encoding: str, url: str) -> bytes:
    """Undo the one encoding that was asked for, with a bound.

    A client would undo any, and any number of them: a few kilobytes would fill the memory.
    """
    if encoding in ("", "identity"):
        return bytes(body)
    if encoding not in ("gzip", "x-gzip"):
        raise UpstreamError(
            f"the page is encoded as {encoding!r}, which was not asked for", where=without_secrets(url)
        )
    if not body.startswith(_MAGIC):
        raise UpstreamError("the page is not gzip", where=without_secrets(url))
    try:
        with _GZIP(fileobj=io.BytesIO(body)) as members:
            page = bytes(members.read(_PAGE_LIMIT + 1))
    except EOFError as error:
        raise TruncatedError(
            "the upstream stopped in the middle of the page", where=without_secrets(url)
        ) from error
    except _NO_GZIP as error:
        raise UpstreamError(f"the page is not gzip: {error}", where=without_secrets(url)) from error
    if len(page) > _PAGE_LIMIT:
        raise UpstreamError("the page has no end", where=without_secrets(url))
    return page


async def fetch(
    client: Client,
    url: str,
    store: Store,
    expected: Expected,
    retries: int,
    advance: Advance,
    inspect: Callable[[Path], None] | None = None,
) -> str:
    """Bring one file into the store and give its sha256.

    `advance` is told the bytes as they come, negative when a transfer starts again; `inspect` is
    shown the file before it is kept, and raises to refuse it. Raises UpstreamError and its kinds,
    DigestMismatchError, DiskFullError; the store is then as it was.
    """
    place = expanded(url)
    with store.receive(expected) as incoming:
        if place.startswith("file:"):
            _copy(local_path(place), incoming, advance)
        else:
            await _retry(lambda: _transfer(client, place, incoming, advance), retries)
        return await asyncio.to_thread(_keep, store, incoming, inspect)


def _keep(store: Store, incoming: Incoming, inspect: Callable[[Path], None] | None) -> str:
    if inspect is not None:
        incoming.check()
        incoming.sync()
        inspect(incoming.path)
    return store.keep(incoming)


async def _transfer(client: Client, url: str, incoming: Incoming, advance: Advance) -> None:
    """Stream the file, or the rest of it where a transfer was cut before."""
    headers = {"Accept-Encoding": "identity"}
    if incoming.received:
        headers["Range"] = f"bytes={incoming.received}-"

    def begin(answer: Answer) -> Sink:
        _check_file(answer, incoming, advance, url)
        pace = _Pace(url)

        def take(piece: bytes) -> None:
            incoming.write(piece)
            advance(len(piece))
            pace.count(len(piece))

        return take

    await client.ask(url, begin, headers, alone=True)
    if incoming.expected.size is not None and incoming.received < incoming.expected.size:
        raise TruncatedError(
            f"the upstream stopped after {incoming.received} of {incoming.expected.size} bytes",
            where=without_secrets(url),
            hint="run the refresh again; what was stocked is kept",
        )


def _check_file(answer: Answer, incoming: Incoming, advance: Advance, url: str) -> None:
    """See that an answer is the file, or its rest; where it is the whole one, begin again."""
    if answer.status in _GONE:
        raise NotFoundUpstreamError("the file is not there", where=without_secrets(url), hint="lock again")
    if answer.status == _NO_SUCH_RANGE and incoming.received:
        _begin_again(incoming, advance)  # at the next try: the file is another, or what came too much
        raise _StatusError(answer)
    if answer.status == _A_PART and incoming.received:
        if _continues(answer, incoming.received):
            return
        _begin_again(incoming, advance)
        raise TruncatedError("the upstream sends another part than was asked for", where=without_secrets(url))
    _check_status(answer)
    if incoming.received:
        _begin_again(incoming, advance)


def _begin_again(incoming: Incoming, advance: Advance) -> None:
    advance(-incoming.received)
    incoming.restart()


class _Pace:
    """Ends a transfer that goes on, but hardly: a time-out between two bytes would never come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._begun = time.monotonic()
        self._bytes = 0

    def count(self, size: int) -> None:
        """Count bytes. Raises an error that is worth another try when too few came for too long."""
        self._bytes += size
        seconds = time.monotonic() - self._begun
        if seconds < STALL_SECONDS:
            return
        if self._bytes / seconds < STALL_RATE:
            raise UnreachableError(
                f"only {self._bytes} bytes came in {seconds:.0f} s", where=without_secrets(self._url)
            )
        self._begun, self._bytes = time.monotonic(), 0


def _continues(answer: Answer, received: int) -> bool:
    return answer.header("Content-Range").startswith(f"bytes {received}-")


def local_path(url: str) -> Path:
    """Give the path that a file: URL, or a plain path, means."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(url)


def _copy(path: Path, incoming: Incoming, advance: Advance) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                incoming.write(chunk)
                advance(len(chunk))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise NotFoundUpstreamError(
            f"the file cannot be read: {error.strerror}", where=str(path), hint="lock again"
        ) from error


class _StatusError(UpstreamError):
    """An answer that another try may change, with the pause that the upstream asks for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            f"the upstream answers {answer.status} {answer.reason}".rstrip(),
            where=without_secrets(answer.url),
            hint="try again later; what was stocked before is kept and served",
        )
        self.pause = _retry_after(answer.header("Retry-After"))


def _retry_after(text: str) -> float | None:
    """Give the seconds that a Retry-After header asks for: a number, or a date (RFC 9110)."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _check_status(answer: Answer) -> None:
    if answer.status in _WORTH_RETRYING:
        raise _StatusError(answer)
    if answer.status in (401, 403):
        raise UpstreamError(
            f"the upstream refuses access ({answer.status})",
            where=without_secrets(answer.url),
            hint="give credentials as pip takes them (in the index URL of its configuration, or in netrc), "
            "or npm (`_authToken` in .npmrc)",
        )
    if answer.status != _OK:
        raise UpstreamError(f"the upstream answers {answer.status}", where=without_secrets(answer.url))


async def _retry(attempt: Callable[[], Awaitable[_T]], retries: int) -> _T:
    """Try until it works, but no more than `retries` times more, with growing pauses."""
    for count in range(retries):
        try:
            return await attempt()
        except (_StatusError, TruncatedError, UnreachableError) as error:
            pause = getattr(error, "pause", None) or 0.25 * 2**count * random.uniform(0.5, 1)  # noqa: S311 jitter is no secret
            await asyncio.sleep(min(pause, _LONGEST_PAUSE))
    return await attempt()
