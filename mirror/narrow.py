"""Zip files cut down to the members that are wanted; `zipfile` makes an object for each of the others."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s16xL4x3H8xL")
_LOCAL = struct.Struct("<26s2H")
_END_MARK, _ENTRY_MARK = b"PK\5\6", b"PK\1\2"
_LARGEST = 16 << 20  # bytes of all members


def narrowed(path: Path, suffix: bytes) -> BinaryIO:
    """Give a zip of the members of the one at `path` whose names end so, for `zipfile` to read and check.

    A zip that is not plain (damaged, in parts, of 4 GiB, with a comment or bytes before it) comes as it
    is. Raises OSError.
    """
    with path.open("rb") as file:
        try:
            return _cut(file, _directory(file), suffix)
        except (struct.error, ValueError):
            return path.open("rb")


def _directory(file: BinaryIO) -> bytes:
    """Give what the zip says of its members."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    mark, *parts, length, start, _ = _END.unpack(file.read())
    if mark != _END_MARK or any(parts[:2]) or start + length + _END.size != size:
        raise ValueError
    file.seek(start)
    return file.read(length)


def _cut(file: BinaryIO, directory: bytes, suffix: bytes) -> BinaryIO:
    members, kept, count, at = bytearray(), bytearray(), 0, 0
    while at < len(directory):
        mark, size, long, extra, comment, offset = _ENTRY.unpack_from(directory, at)
        begin = at + _ENTRY.size
        name, end = directory[begin : begin + long], begin + long + extra + comment
        if mark != _ENTRY_MARK or b"\0" in name or end > len(directory):
            raise ValueError
        if name.endswith(suffix):
            kept += directory[at : begin - 4] + struct.pack("<L", len(members)) + directory[begin:end]
            members += _member(file, offset, size, _LARGEST - len(members))
            count += 1
        at = end
    tail = _END.pack(_END_MARK, 0, 0, count, count, len(kept), len(members), 0)
    return io.BytesIO(b"".join((members, kept, tail)))


def _member(file: BinaryIO, offset: int, size: int, limit: int) -> bytes:
    """Give a member with the header before it; `size` is that of its content as it lies there."""
    if size > limit:
        raise ValueError
    file.seek(offset)
    header = file.read(_LOCAL.size)
    return header + file.read(sum(_LOCAL.unpack(header)[1:]) + size)
