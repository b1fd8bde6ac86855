"""Reads single files out of hostile archives: nothing is unpacked, and everything has a limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_SCAN_LIMIT = 1 << 30
_HEADER_LIMIT = 1 << 20
_LONG_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
)  # fmt: skip


class BoundedTarInfo(tarfile.TarInfo):
    """A member whose name, or extended header, cannot fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedTarInfo:
        """Read one header block. Raises tarfile.ReadError where what follows it is too long."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG_HEADERS and member.size > _HEADER_LIMIT:
            raise tarfile.ReadError("a header of the archive is longer than 1 MiB")
        return member


class BoundedStream(io.RawIOBase):
    """A stream that fails after a number of bytes, whatever it could decompress to."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int = _SCAN_LIMIT) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """Give at most `size` bytes. Raises ValueError where the limit is passed."""
        data = self._stream.read(size if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the archive decompresses to more than is allowed")
        return data


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar, compressed or not, to be read once from front to back."""
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        with (
            _decompressed(file, magic) as stream,
            tarfile.open(fileobj=BoundedStream(stream), mode="r|", tarinfo=BoundedTarInfo) as archive,
        ):
            yield archive


def read_member(path: Path, filename: str, wanted: Callable[[str], bool], limit: int) -> bytes | None:
    """Give the first wanted file of a tar or zip, or None. Raises ValueError when it is broken or large."""
    try:
        data = _from_zip(path, wanted, limit) if filename.endswith(".zip") else _from_tar(path, wanted, limit)
    except UNREADABLE as error:
        raise ValueError(f"not a readable archive: {error}") from error
    if data is not None and len(data) > limit:
        raise ValueError(f"a file in it is larger than {limit} bytes")
    return data


def _decompressed(file: IO[bytes], magic: bytes) -> IO[bytes] | gzip.GzipFile:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    return file


def _from_tar(path: Path, wanted: Callable[[str], bool], limit: int) -> bytes | None:
    with open_tar(path) as archive:
        for member in archive:
            if wanted(member.name) and member.isreg() and (file := archive.extractfile(member)):
                return file.read(limit + 1)
    return None


def _from_zip(path: Path, wanted: Callable[[str], bool], limit: int) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if wanted(name):
                with archive.open(name) as file:
                    return file.read(limit + 1)
    return None
