"""Zip archives whose members ISA-L inflates: of unpacking a wheel, that is most of the time."""

from __future__ import annotations

import zipfile
from copy import copy
from io import BytesIO
from typing import IO, Any, Literal

from isal import isal_zlib

_ISAL: Any = isal_zlib  # it has no types
_RAW = -15


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
        """Open a member. Raises BadZipFile where it is damaged."""
        member = name if isinstance(name, zipfile.ZipInfo) else self.getinfo(name)
        if member.compress_type != zipfile.ZIP_DEFLATED:
            return super().open(member, mode, pwd, force_zip64=force_zip64)
        # As if it were stored as it is, and without the digest of what it unfolds to.
        raw = copy(member)
        raw.compress_type, raw.file_size = zipfile.ZIP_STORED, member.compress_size
        del raw.CRC
        with super().open(raw, mode, pwd, force_zip64=force_zip64) as stream:
            return BytesIO(_inflated(stream.read(), member))


def _inflated(data: bytes, member: zipfile.ZipInfo) -> bytes:
    inflater = _ISAL.decompressobj(_RAW)
    try:
        found = bytes(inflater.decompress(data, member.file_size + 1))
    except _ISAL.error as error:
        raise zipfile.BadZipFile(f"{member.filename!r} cannot be inflated: {error}") from error
    if len(found) != member.file_size or _ISAL.crc32(found) != member.CRC:
        raise zipfile.BadZipFile(f"{member.filename!r} is not what its entry says")
    return found
