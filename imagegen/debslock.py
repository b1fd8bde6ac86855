"""debs.lock: the exact Debian packages of each base, as text and as data. Pure.

It names no host: a package is known by its file name, its size and the SHA-256 that a signed index
of the archive gave it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from imagegen.errors import BaseError
from lockfiles.document import Table, parse_toml

NAME = "debs.lock"
_VERSION = 1
_FILE = re.compile(r"([a-z0-9][a-z0-9+.-]+)_((?:[A-Za-z0-9.+~-]|%3a)+)_([a-z0-9-]+)\.deb", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[a-z0-9][a-z0-9+.-]*", re.ASCII)
_MOST = 4 << 30
_HEAD = "# Written by `imagegen lock-base`; bases are made from exactly these packages.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A Debian package: its file as apt names it, its size in bytes, and its digest."""

    file: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The package's name."""
        return self.file.partition("_")[0]

    @property
    def version(self) -> str:
        """The version with its epoch, whose colon is written %3a in names of files."""
        return unquote(self.file.split("_")[1])

    @property
    def architecture(self) -> str:
        """What it is for, in Debian's words; `all` where that does not matter."""
        return self.file.rpartition("_")[2].removesuffix(".deb")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBase:
    """What was asked for (suite, architecture, names of packages), and all that it takes."""

    suite: str
    architecture: str
    packages: tuple[str, ...]
    debs: tuple[Deb, ...]

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What was asked for."""
        return self.suite, self.architecture, self.packages


@dataclass(frozen=True, slots=True)
class DebsLock:
    """All bases of a lock, sorted."""

    bases: tuple[LockedBase, ...] = ()

    def find(self, suite: str, architecture: str, packages: Iterable[str]) -> LockedBase | None:
        """Give the base that was asked for with exactly these packages."""
        wanted = (suite, architecture, tuple(sorted(set(packages))))
        return next((base for base in self.bases if base.key == wanted), None)

    def text(self) -> str:
        """Write the lock: the same bytes for the same content."""
        return _HEAD + f"version = {_VERSION}\n" + "".join(map(_text, sorted(self.bases, key=_key)))


def parse(name: str, text: str) -> DebsLock:
    """Read a lock from a file of this name. Raises BaseError naming file, line and key."""
    table = parse_toml(name, text, BaseError)
    if table.integer("version", 0) != _VERSION:
        raise table.fault("version", f"is not {_VERSION}", "run `imagegen lock-base` of this version again")
    bases = tuple(_base(entry) for entry in table.tables("base"))
    table.finish()
    return DebsLock(bases)


def deb_of(file: str, size: int, sha256: str) -> Deb:
    """Describe a package. Raises ValueError where that cannot be one."""
    if not _FILE.fullmatch(file):
        raise ValueError(f"{file!r} is not the name of a Debian package's file")
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256")
    if not 0 < size <= _MOST:
        raise ValueError(f"{size} bytes are too few or too many")
    return Deb(file=file, size=size, sha256=sha256)


def _base(table: Table) -> LockedBase:
    base = LockedBase(
        suite=_word(table, "suite", table.string("suite")),
        architecture=_word(table, "architecture", table.string("architecture")),
        packages=tuple(sorted({_word(table, "packages", name) for name in table.strings("packages")})),
        debs=tuple(sorted(_debs(table), key=lambda deb: deb.file)),
    )
    table.finish()
    names = [deb.name for deb in base.debs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise table.fault("debs", f"{twice} is in it twice")
    return base


def _word(table: Table, key: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise table.fault(key, f"{text!r} is not a name that Debian uses")
    return text


def _debs(table: Table) -> Iterator[Deb]:
    for entry in table.tables("debs"):
        file, size, sha256 = entry.string("file"), entry.integer("size", 0), entry.string("sha256")
        try:
            deb = deb_of(file, size, sha256)
        except ValueError as error:
            raise entry.fault("file", str(error)) from error
        entry.finish()
        yield deb


def _key(base: LockedBase) -> tuple[str, str, tuple[str, ...]]:
    return base.key


def _text(base: LockedBase) -> str:
    lines = [
        f'  {{ file = "{deb.file}", size = {deb.size}, sha256 = "{deb.sha256}" }},'
        for deb in sorted(base.debs, key=lambda deb: deb.file)
    ]
    return "\n".join(
        [
            "\n[[base]]",
            f'suite = "{base.suite}"',
            f'architecture = "{base.architecture}"',
            f"packages = {json.dumps(list(base.packages))}",
            "debs = [",
            *lines,
            "]\n",
        ]
    )
