"""Zip archives whose members ISA-L inflates, and which keep the deflate streams of the large ones."""

from __future__ import annotations

import zipfile
from copy import copy
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import IO, Any, Literal

from isal import isal_zlib

from imagegen.archive import Deflated

_ISAL: Any = isal_zlib  # it has no types
_RAW = -15
# Shorter streams take less room when they are compressed anew, together with what lies beside them.
_KEPT_FROM = 12 << 10


class Member(BytesIO):
    """The bytes of a member that was checked, and the deflate stream they came from, where that is kept."""

    def __init__(self, plain: bytes, stream: bytes = b"") -> None:
        super().__init__(plain)
        self._stream = stream

    @property
    def content(self) -> bytes | Deflated:
        """All of it."""
        plain = self.getvalue()
        return Deflated(plain=plain, stream=self._stream) if self._stream else plain

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
            with super().open(member) as stream:
                return Member(stream.read())
        # As if it were stored as it is, and without the digest of what it unfolds to.
        raw = copy(member)
        raw.compress_type, raw.file_size = zipfile.ZIP_STORED, member.compress_size
        del raw.CRC
        with super().open(raw) as stream:
            return _inflated(stream.read(raw.file_size), member)


def _inflated(data: bytes, member: zipfile.ZipInfo) -> Member:
    # It has nothing before its start to refer to, and takes a stream that does so for damaged.
    inflater = _ISAL.decompressobj(_RAW)
    try:
        found = bytes(inflater.decompress(data, member.file_size + 1))
    except _ISAL.error as error:
        raise zipfile.BadZipFile(f"{member.filename!r} cannot be inflated: {error}") from error
    if len(found) != member.file_size or _ISAL.crc32(found) != member.CRC:
        raise zipfile.BadZipFile(f"{member.filename!r} is not what its entry says")
    # One that has no end, or goes on after it, reads well where its length is known; in gzip it is not.
    whole = inflater.eof and not inflater.unused_data and not inflater.unconsumed_tail
    kept = whole and _KEPT_FROM <= len(data) < len(found)
    return Member(found, data if kept else b"")
