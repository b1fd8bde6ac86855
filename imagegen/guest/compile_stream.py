"""Compiles Python sources from stdin to stdout with the Python of a base; nothing of them is run.

Both ways, a number is four bytes, the lowest first. In come path and source, each after its length;
out goes for each source the length of its .pyc, 0 where it is no Python of this version, and the .pyc.
It names the size of its source and the one time, given as the argument, that all files of the image
have: equal for equal sources, and Python sees when somebody edits a module.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from typing import BinaryIO

_TIMED = 0


def compiled(path: str, source: bytes, time: int) -> bytes:
    """Give the .pyc of a source, or nothing: also of one that nests deeper than a .pyc may."""
    try:
        code = marshal.dumps(compile(source, path, "exec", dont_inherit=True, optimize=0))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return b""
    head = (importlib.util.MAGIC_NUMBER, number(_TIMED), number(time), number(len(source)))
    return b"".join(head) + code


def number(value: int) -> bytes:
    """Write a number."""
    return value.to_bytes(4, "little")


def field(stream: BinaryIO) -> bytes | None:
    """Read one field, or None at the end."""
    length = stream.read(4)
    return stream.read(int.from_bytes(length, "little")) if length else None


def main() -> None:
    """Compile until stdin ends."""
    while (path := field(sys.stdin.buffer)) is not None:
        pyc = compiled(path.decode(), field(sys.stdin.buffer) or b"", int(sys.argv[1]))
        sys.stdout.buffer.write(number(len(pyc)) + pyc)


if __name__ == "__main__":
    main()
