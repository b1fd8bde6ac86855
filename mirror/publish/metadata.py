"""Core metadata of wheels and sdists, read in place: nothing is unpacked to disk or executed.

The files are hostile: what is read and what is decompressed has limits, and a file without
metadata that can be read within them simply has none.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from packaging.metadata import RawMetadata, parse_email

from mirror.archives import BoundedTarInfo
from mirror.narrow import narrowed

METADATA_LIMIT = 1 << 20
SCAN_LIMIT = 64 << 20
_IN_WHEEL = re.compile(r"[^/]+\.dist-info/METADATA")
_IN_SDIST = re.compile(r"[^/]+/PKG-INFO")
_UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, tarfile.TarError, zlib.error,
)  # fmt: skip


def read(path: Path, filename: str) -> RawMetadata | None:
    """Give the core metadata of the wheel or sdist at `path`, or None where there is none to read.

    `filename` is the distribution's own file name, which says its kind. Core metadata
    specification; sizes are limited to METADATA_LIMIT bytes of text and SCAN_LIMIT decompressed
    bytes of an sdist.
    """
    try:
        data = _find(path, filename)
    except _UNREADABLE:
        return None
    return parse(data) if data is not None else None


def parse(data: bytes) -> RawMetadata | None:
    """Give the core metadata that these bytes are, or None where they cannot be read."""
    try:
        return parse_email(data)[0]
    except _UNREADABLE:
        return None


def wheel_metadata(path: Path, filename: str) -> bytes | None:
    """Give the exact bytes of a wheel's METADATA, as PEP 658 serves them; None where there is not one."""
    if not filename.endswith(".whl"):
        return None
    try:
        with narrowed(path, b"/METADATA") as file, zipfile.ZipFile(file) as archive:
            found = [entry for entry in archive.infolist() if _IN_WHEEL.fullmatch(entry.filename)]
            if len(found) != 1:
                return None
            with archive.open(found[0]) as member:
                return _limited(member.read(METADATA_LIMIT + 1))
    except _UNREADABLE:
        return None


def _find(path: Path, filename: str) -> bytes | None:
    if filename.endswith(".whl"):
        return _from_zip(path, b"/METADATA", _IN_WHEEL)
    if filename.endswith(".zip"):
        return _from_zip(path, b"/PKG-INFO", _IN_SDIST)
    if filename.endswith((".tar.gz", ".tgz")):
        return _from_tar(path)
    return None


def _from_zip(path: Path, suffix: bytes, pattern: re.Pattern[str]) -> bytes | None:
    with narrowed(path, suffix) as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if pattern.fullmatch(entry.filename):
                with archive.open(entry) as member:
                    return _limited(member.read(METADATA_LIMIT + 1))
    return None


def _from_tar(path: Path) -> bytes | None:
    with (
        gzip.open(path) as stream,
        tarfile.open(fileobj=_Limited(stream), mode="r|", tarinfo=BoundedTarInfo) as archive,
    ):
        for member in archive:
            if member.isreg() and _IN_SDIST.fullmatch(member.name):
                file = archive.extractfile(member)
                return _limited(file.read(METADATA_LIMIT + 1)) if file else None
    return None


def _limited(data: bytes) -> bytes | None:
    return data if len(data) <= METADATA_LIMIT else None


class _Limited(io.RawIOBase):
    """A stream that ends after SCAN_LIMIT bytes, whatever it could decompress to."""

    def __init__(self, stream: gzip.GzipFile | BinaryIO) -> None:
        self._stream = stream
        self._left = SCAN_LIMIT

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        return data
