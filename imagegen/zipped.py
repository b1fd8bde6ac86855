"""Zip archives whose members ISA-L inflates, and which keep the deflate streams of the large ones.

What is kept is read by everybody who pulls an image. So libdeflate has to unfold it, too, which takes
only what the others take: ISA-L lets codes pass that are not complete.
"""

from __future__ import annotations

import zipfile
from contextlib import suppress
from copy import copy
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import IO, Any, Literal

import deflate
from isal import isal_zlib

from imagegen.archive import Deflated, gzip_member

_ISAL: Any = isal_zlib  # it has no types
_RAW = -15
# Shorter streams take less room when they are compressed anew, together with what lies beside them.
_KEPT_FROM = 12 << 10
_MOST_FOLD = 1032  # bytes that a byte of a deflate stream can stand for
_TAIL = 8  # bytes of a gzip member after its stream


class Member(BytesIO):
    """The bytes of a member that was checked, and as a gzip member, where that is kept."""

    def __init__(self, plain: bytes, gzip: bytes = b"") -> None:
        super().__init__(plain)
        self._gzip = gzip

    @property
    def content(self) -> bytes | Deflated:
        """All of it."""
        plain = self.getvalue()
        return Deflated(plain=plain, member=self._gzip) if self._gzip else plain

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.getvalue())  # shared, where a buffer would be a copy

    @cached_property
    def sha256(self) -> bytes:
        """The digest of its bytes."""
        return sha256(self.getvalue()).digest()


class Zip(zipfile.ZipFile):
    """A zip archive to read. What a member unfolds to is checked before any of it is given."""

    def open(
        self,
        name: str | zipfile.ZipInfo,
        mode: Literal["r", "w"] = "r",
        pwd: bytes | None = None,
        *,
        force_zip64: bool = False,
    ) -> IO[bytes]:
        """Open a member, which is a `Member`. Raises BadZipFile where it is damaged."""
        return self.member(name)

    def member(self, name: str | zipfile.ZipInfo) -> Member:
        """Read a member. Raises BadZipFile where it is damaged."""
        member = name if isinstance(name, zipfile.ZipInfo) else self.getinfo(name)
        if member.compress_type != zipfile.ZIP_DEFLATED:
            return self._other(member)
        # As if it were stored as it is, and without the digest of what it unfolds to.
        raw = copy(member)
        raw.compress_type, raw.file_size = zipfile.ZIP_STORED, member.compress_size
        del raw.CRC
        with super().open(raw) as stream:
            return _inflated(stream.read(raw.file_size), member)

    def _other(self, member: zipfile.ZipInfo) -> Member:
        with super().open(member) as stream:
            try:
                return Member(stream.read())
            except OSError as error:  # as bz2 calls what is damaged
                raise zipfile.BadZipFile(f"{member.filename!r} cannot be unpacked: {error}") from error


def _inflated(data: bytes, member: zipfile.ZipInfo) -> Member:
    if _KEPT_FROM <= len(data) < member.file_size <= len(data) * _MOST_FOLD:
        gzip = gzip_member(data, member.CRC, member.file_size)
        # After a stream that ends before its data does, the tail would be looked for where it does not lie.
        if gzip.find(gzip[-_TAIL:]) == len(gzip) - _TAIL:
            with suppress(deflate.DeflateError):
                return Member(bytes(deflate.gzip_decompress(gzip, member.file_size)), gzip)
    return Member(_unfolded(data, member))


def _unfolded(data: bytes, member: zipfile.ZipInfo) -> bytes:
    # It has nothing before its start to refer to, and takes a stream that does so for damaged.
    inflater = _ISAL.decompressobj(_RAW)
    try:
        found = bytes(inflater.decompress(data, member.file_size + 1))
    except _ISAL.error as error:
        raise zipfile.BadZipFile(f"{member.filename!r} cannot be inflated: {error}") from error
    if len(found) != member.file_size or _ISAL.crc32(found) != member.CRC:
        raise zipfile.BadZipFile(f"{member.filename!r} is not what its entry says")
    return found
