"""The lock-file formats that can be read: one module each, and one table of them all."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lockfiles.errors import LockError
from lockfiles.formats import requirements
from lockfiles.model import Lock

Read = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: the file names it goes by, how its content is known, and its reader."""

    names: tuple[str, ...]
    looks_like: Callable[[str], bool]
    parse: Callable[[str, str, Read | None], Lock]


FORMATS: dict[str, Format] = {
    "requirements.txt": Format(
        names=("*.txt",),
        looks_like=requirements.looks_like,
        parse=requirements.parse,
    ),
}


def detect(filename: str, text: str) -> str:
    """Name the format of a lock-file, a key of `FORMATS`, by its name or else by its content.

    Raises LockError where it is none of them.
    """
    name = posixpath.basename(filename)
    for key, known in FORMATS.items():
        if any(fnmatchcase(name, pattern) for pattern in known.names):
            return key
    for key, known in FORMATS.items():
        if known.looks_like(text):
            return key
    raise LockError("not a lock-file that is known here", where=filename, hint=f"known: {', '.join(FORMATS)}")


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read the text of a lock-file, whichever its format.

    `filename` is relative to the project's folder. Where the format includes other files (`-r`,
    `-c`), `read` gives the text of a path that is relative to the same folder and inside it.
    Raises LockError naming file, line or path, and package.
    """
    return FORMATS[detect(filename, text)].parse(filename, text, read)
