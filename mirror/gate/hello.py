"""Reads the server name out of a TLS ClientHello (RFC 8446, RFC 6066), and refuses what hides it."""

from __future__ import annotations

from mirror.gate.hosts import HostError, Name, parse_name

_HEADER = 5
_RECORD_LIMIT = 1 << 14
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME = 0
# Encrypted ClientHellos, and the drafts before them: 0xFFCE is the encrypted server name of the first ones.
_ENCRYPTED_HELLO = frozenset((0xFE08, 0xFE09, 0xFE0A, 0xFE0B, 0xFE0C, 0xFE0D, 0xFF02, 0xFF03, 0xFFCE))


class HelloError(ValueError):
    """The first bytes of a tunnel are no ClientHello that names a server."""


def hello_size(data: bytes) -> int | None:
    """Give the bytes of the first record, or None until its header is there. Raises HelloError."""
    if data and data[0] != _HANDSHAKE:
        raise HelloError("what comes is not TLS")
    if len(data) < _HEADER:
        return None
    length = int.from_bytes(data[3:5])
    if data[1] != 3 or not 0 < length <= _RECORD_LIMIT:
        raise HelloError("not a TLS record")
    return _HEADER + length


def server_name(record: bytes) -> Name:
    """Give the server name of a ClientHello, which must be whole in its record. Raises HelloError."""
    reader = _Reader(record[_HEADER:])
    if reader.number(1) != _CLIENT_HELLO:
        raise HelloError("not a ClientHello")
    body = _Reader(reader.take(reader.number(3)))
    reader.end()
    body.take(2 + 32)
    for width in (1, 2, 1):  # session, cipher suites, compression methods
        body.take(body.number(width))
    extensions = _Reader(body.take(body.number(2)))
    body.end()
    return _named(extensions)


def _named(extensions: _Reader) -> Name:
    found: list[bytes] = []
    while extensions.left:
        kind, data = extensions.number(2), extensions.take(extensions.number(2))
        if kind in _ENCRYPTED_HELLO:
            raise HelloError("an encrypted ClientHello hides the server's name")
        if kind == _SERVER_NAME:
            found.append(data)
    if len(found) != 1:
        raise HelloError("the ClientHello names no server" if not found else "two server names")
    names = _Reader(found[0])
    entry = _Reader(names.take(names.number(2)))
    names.end()
    if entry.number(1) != 0:
        raise HelloError("not the name of a host")
    name = entry.take(entry.number(2))
    entry.end()
    try:
        return parse_name(name.decode("ascii"))
    except (HostError, UnicodeDecodeError) as error:
        raise HelloError("the server name is not the name of a host") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise HelloError("a length leads out of the ClientHello")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def end(self) -> None:
        if self.left:
            raise HelloError("something follows where the ClientHello should end")
