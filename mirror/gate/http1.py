"""A strict reader of HTTP/1.1 heads (RFC 9112): what two programs could read in two ways is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_LIMIT = 32 * 1024
_HEADERS = 100
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(rb"[A-Z]{1,20}")
_TARGET = re.compile(rb"[!-~]+")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,17}")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_ONCE = ("host", "content-length", "transfer-encoding", "authorization", "proxy-authorization")
# Of one connection only (RFC 9110, section 7.6.1), or for the gate itself.
HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te",
        "trailer", "upgrade", "expect",
    )
)  # fmt: skip

Headers = tuple[tuple[str, str], ...]


class HttpError(Exception):
    """A message that is not taken; `status` is the answer to it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a request; header names are lower-case."""

    method: str
    target: str
    minor: int
    headers: Headers

    def get(self, name: str) -> str | None:
        """Give the first header of that name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def length(self) -> int:
        """The bytes of the body."""
        return int(self.get("content-length") or 0)

    @property
    def keeps(self) -> bool:
        """Whether the client wants to go on with this connection."""
        return self.minor == 1 and "close" not in (self.get("connection") or "").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The head of an upstream's answer."""

    status: int
    headers: Headers

    @property
    def length(self) -> int | None:
        """The bytes of the body, or None where only its end tells."""
        found = next((value for key, value in self.headers if key == "content-length"), None)
        return int(found) if found is not None else None


def parse_head(data: bytes) -> Head:
    """Read a request's head, with the empty line that ends it. Raises HttpError."""
    first, *lines = _lines(data)
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise HttpError(400, "not a request line of HTTP/1.1")
    method, target, version = parts
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise HttpError(400, "not a method and a target")
    head = Head(
        method=method.decode(), target=target.decode(), minor=int(version[-1:]), headers=_headers(lines)
    )
    _check_framing(head)
    return head


def parse_answer(data: bytes) -> Answer:
    """Read an answer's head, with the empty line that ends it. Raises HttpError."""
    first, *lines = _lines(data)
    match = _STATUS.fullmatch(first)
    if not match:
        raise HttpError(502, "the upstream's answer has no status line")
    headers = _headers(lines)
    names = [name for name, _ in headers]
    if "content-length" in names and "transfer-encoding" in names:
        raise HttpError(502, "the upstream's answer has two lengths")
    _check_length(headers, 502)
    return Answer(status=int(match[2]), headers=headers)


def render_head(first: str, headers: Headers) -> bytes:
    """Write a head; all of it was read by this module or made by the gate."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{first}\r\n{lines}\r\n".encode("latin-1")


def end_to_end(headers: Headers, *without: str) -> Headers:
    """Give the headers that go on: none of one connection, none that the client calls so, none named."""
    named = ",".join(value for name, value in headers if name == "connection").lower()
    dropped = HOP_BY_HOP | {word.strip() for word in named.split(",")} | {*without}
    # These frame the message; a Connection header may not take them away.
    dropped -= {"content-length", "transfer-encoding"} - {*without}
    return tuple((name, value) for name, value in headers if name not in dropped)


def _lines(data: bytes) -> list[bytes]:
    if not data.endswith(b"\r\n\r\n"):
        raise HttpError(400, "the head does not end with an empty line")
    lines = data[:-4].split(b"\r\n")
    if len(lines) > _HEADERS + 1:
        raise HttpError(431, f"more than {_HEADERS} headers")
    if any(b"\n" in line or b"\r" in line or b"\0" in line for line in lines):
        raise HttpError(400, "a line that does not end with CR LF")
    return lines


def _headers(lines: list[bytes]) -> Headers:
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HttpError(
                400, "not a header: a folded line, a space before the colon, or a control character"
            )
        headers.append((name.decode().lower(), value.strip(b" \t").decode("latin-1")))
    names = [name for name, _ in headers]
    for once in _ONCE:
        if names.count(once) > 1:
            raise HttpError(400, f"more than one {once}")
    return tuple(headers)


def _check_framing(head: Head) -> None:
    if head.get("transfer-encoding") is not None:
        # Refused as a whole: no chunk, no extension and no trailer can then be read in two ways.
        raise HttpError(411, "a body needs a Content-Length")
    _check_length(head.headers, 400)
    if head.minor == 1 and head.get("host") is None:
        raise HttpError(400, "the Host is missing")
    if head.length and head.method in ("CONNECT", "GET", "HEAD", "TRACE"):
        raise HttpError(400, f"{head.method} has no body")
    if head.get("upgrade") is not None and "upgrade" in (head.get("connection") or "").lower():
        raise HttpError(400, "no upgrades")


def _check_length(headers: Headers, status: int) -> None:
    for name, value in headers:
        if name == "content-length" and not (value.isascii() and _LENGTH.fullmatch(value)):
            raise HttpError(status, "the Content-Length is no number")
