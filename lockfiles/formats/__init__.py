"""The lock-file formats that can be read: one module each, and one table of them all."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Protocol, cast

from lockfiles.errors import LockError
from lockfiles.formats.fields import Read
from lockfiles.model import Ecosystem, Lock


class Reader(Protocol):
    """What the module of a format has."""

    def looks_like(self, text: str) -> bool:
        """Say whether a text is of this format."""

    def parse(self, filename: str, text: str, read: Read | None) -> Lock:
        """Read a lock. Raises LockError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: the module that reads it, the file names it goes by, and its ecosystem.

    `beside` names the files beside the lock that its reader asks for, if they are there.
    """

    module: str
    names: tuple[str, ...]
    beside: tuple[str, ...] = ()
    ecosystem: Ecosystem = Ecosystem.PYPI

    @property
    def reader(self) -> Reader:
        """The module, imported for its first lock: all together take long, and few are used."""
        return cast("Reader", import_module(f"{__name__}.{self.module}"))


_PROJECT = ("pyproject.toml",)
_NPM = Ecosystem.NPM
FORMATS: dict[str, Format] = {
    "pylock.toml": Format(module="pylock", names=("pylock.toml", "pylock.*.toml")),
    "uv.lock": Format(module="uv", names=("uv.lock", "*.py.lock"), beside=_PROJECT),
    "poetry.lock": Format(module="poetry", names=("poetry.lock",), beside=_PROJECT),
    "pdm.lock": Format(module="pdm", names=("pdm.lock", "pdm.*.lock"), beside=_PROJECT),
    "Pipfile.lock": Format(module="pipfile", names=("Pipfile.lock",)),
    "bun.lock": Format(module="bun", names=("bun.lock",), ecosystem=_NPM),
    "package-lock.json": Format(
        module="npm", names=("package-lock.json", "npm-shrinkwrap.json"), ecosystem=_NPM
    ),
    "pnpm-lock.yaml": Format(module="pnpm", names=("pnpm-lock.yaml",), ecosystem=_NPM),
    "yarn.lock": Format(module="yarn", names=("yarn.lock",), ecosystem=_NPM),
    "conda-lock": Format(
        module="conda", names=("conda-lock.yml", "conda-lock.yaml", "*.conda-lock.yml", "conda-*.lock")
    ),
    "requirements.txt": Format(module="requirements", names=("*.txt",)),
}


def detect(filename: str, text: str) -> str:
    """Name the format of a lock-file, a key of `FORMATS`, by its name or else by its content.

    Raises LockError where it is none of them.
    """
    name, text = posixpath.basename(filename), _with_unix_lines(text)
    for key, known in FORMATS.items():
        if any(fnmatchcase(name, pattern) for pattern in known.names):
            return key
    for key, known in FORMATS.items():
        if known.reader.looks_like(text):
            return key
    raise LockError("not a lock-file that is known here", where=filename, hint=f"known: {', '.join(FORMATS)}")


def ecosystem_of(filename: str) -> Ecosystem:
    """Tell by its name alone whose packages a lock names; Python's, where the name says nothing."""
    name = posixpath.basename(filename)
    known = (known for known in FORMATS.values() if any(fnmatchcase(name, p) for p in known.names))
    return next((known.ecosystem for known in known), Ecosystem.PYPI)


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read the text of a lock-file, whichever its format.

    `filename` is relative to the project's folder. Where the format includes other files (`-r`,
    `-c`) or has some `beside` it, `read` gives the text of a path that is relative to the same
    folder and inside it, or raises OSError or KeyError. Raises LockError naming file, line or
    path, and package.
    """
    lock = FORMATS[detect(filename, text)].reader.parse(filename, _with_unix_lines(text), read)
    return replace(lock, filename=filename)


def _with_unix_lines(text: str) -> str:
    """Give a text as the readers take it: git on Windows ends lines otherwise."""
    return text.replace("\r\n", "\n")
