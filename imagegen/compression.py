"""How layers are compressed, and read again: gzip by ISA-L, or Zstandard. Equal input, equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

# Of ISA-L's levels the one after which more time hardly gives smaller layers.
_GZIP_LEVEL = 2
_GZIP_WINDOW = 31
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
        return _GZIP_LEVEL if self is Compression.GZIP else f"zstd {_ZSTD_LEVEL}"

    def compressor(self) -> Compressor:
        """Give a new compressor for one layer."""
        if self is Compression.GZIP:
            return cast("Compressor", _ISAL.compressobj(_GZIP_LEVEL, _ISAL.DEFLATED, _GZIP_WINDOW))
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
