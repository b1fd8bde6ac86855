"""How layers are compressed, and read again: gzip by libdeflate, or Zstandard. Equal input, equal bytes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol, cast

import deflate
import zstandard
from isal import igzip, isal_zlib

# Of libdeflate's levels the one after which more time hardly gives smaller layers, and, for what is
# compressed once and then lies below every image, the first of those that look for the best of all ways.
_GZIP_LEVEL, _GZIP_DENSE = 5, 10
# It takes twice as much memory to compress.
_MOST_IN_MEMBER = 8 << 20
_ZSTD_LEVEL = 3
_CHUNK = 1 << 20
_ISAL: Any = isal_zlib  # it has no types
_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, _ISAL.error, zstandard.ZstdError)
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Compression(StrEnum):
    """How a layer's tar is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def media_type(self) -> str:
        """The media type of such a layer."""
        return f"application/vnd.oci.image.layer.v1.tar+{self.value}"

    @property
    def recipe(self) -> object:
        """What a layer's bytes depend on besides its tar, as plain data."""
        return [_GZIP_LEVEL, _GZIP_DENSE] if self is Compression.GZIP else f"zstd {_ZSTD_LEVEL}"

    def compressor(self, *, dense: bool = False) -> Compressor:
        """Give a new compressor for one layer; `dense` is worth several times the time to gzip."""
        if self is Compression.GZIP:
            return GzipMembers(_GZIP_DENSE if dense else _GZIP_LEVEL)
        # On one thread: how many there are must not show in the bytes.
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()


class Compressor(Protocol):
    """What takes a stream in pieces."""

    def compress(self, data: bytes, /) -> bytes:
        """Take the next bytes, and give what can be written by now."""
        ...

    def flush(self) -> bytes:
        """Give the rest."""
        ...


class GzipMembers:
    """A gzip file in members (RFC 1952, 2.2): each has a piece of data, or was put in whole.

    Members are compressed by as many threads as there are processors, which does not show in the bytes.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._most = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._most)
        self._members: deque[Future[bytearray]] = deque()

    def compress(self, data: bytes) -> bytes:
        """Take some bytes, for at least one member, and give the members that are ready."""
        view, starts = memoryview(data), range(0, len(data) or 1, _MOST_IN_MEMBER)
        for start in starts:
            part = view[start : start + _MOST_IN_MEMBER]
            self._members.append(self._threads.submit(deflate.gzip_compress, part, self._level))
        return self._ready(self._most)

    def splice(self, member: bytes) -> bytes:
        """Give a member that was made elsewhere, after those before it."""
        return self._ready(0) + member

    def flush(self) -> bytes:
        """Give the rest."""
        rest = self._ready(0)
        self._threads.shutdown()
        return rest

    def _ready(self, waiting: int) -> bytes:
        """Give the members but for the last ones, which may go on."""
        return b"".join(self._members.popleft().result() for _ in range(len(self._members) - waiting))


def plain(layer: Path) -> Iterator[bytes]:
    """Give the tar in a layer, whatever it is compressed with. Raises ValueError where it is damaged."""
    with layer.open("rb") as file:
        head = file.read(4)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    opened: dict[str, Callable[[Path], IO[bytes]]] = {"gzip": _gunzip, "zstd": _unzstd}
    try:
        with opened.get(kind, _open)(layer) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except _DAMAGE as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _gunzip(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", igzip.open(path, "rb"))  # type: ignore[no-untyped-call]  # as it has none


def _unzstd(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", zstandard.open(path, "rb"))
