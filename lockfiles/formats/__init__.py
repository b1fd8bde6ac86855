"""The lock-file formats that can be read: one module each, and one table of them all."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from lockfiles.errors import LockError
from lockfiles.formats import bun, conda, npm, pdm, pipfile, pnpm, poetry, pylock, requirements, uv, yarn
from lockfiles.formats.fields import Read
from lockfiles.model import Ecosystem, Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: the file names it goes by, how its content is known, its reader and its ecosystem.

    `beside` names the files beside the lock that its reader asks for, if they are there.
    """

    names: tuple[str, ...]
    looks_like: Callable[[str], bool]
    parse: Callable[[str, str, Read | None], Lock]
    beside: tuple[str, ...] = ()
    ecosystem: Ecosystem = Ecosystem.PYPI


_PROJECT = ("pyproject.toml",)
FORMATS: dict[str, Format] = {
    "pylock.toml": Format(
        names=("pylock.toml", "pylock.*.toml"), looks_like=pylock.looks_like, parse=pylock.parse
    ),
    "uv.lock": Format(
        names=("uv.lock", "*.py.lock"), looks_like=uv.looks_like, parse=uv.parse, beside=_PROJECT
    ),
    "poetry.lock": Format(
        names=("poetry.lock",), looks_like=poetry.looks_like, parse=poetry.parse, beside=_PROJECT
    ),
    "pdm.lock": Format(
        names=("pdm.lock", "pdm.*.lock"), looks_like=pdm.looks_like, parse=pdm.parse, beside=_PROJECT
    ),
    "Pipfile.lock": Format(names=("Pipfile.lock",), looks_like=pipfile.looks_like, parse=pipfile.parse),
    "bun.lock": Format(
        names=("bun.lock",), looks_like=bun.looks_like, parse=bun.parse, ecosystem=Ecosystem.NPM
    ),
    "package-lock.json": Format(
        names=("package-lock.json", "npm-shrinkwrap.json"),
        looks_like=npm.looks_like,
        parse=npm.parse,
        ecosystem=Ecosystem.NPM,
    ),
    "pnpm-lock.yaml": Format(
        names=("pnpm-lock.yaml",),
        looks_like=pnpm.looks_like,
        parse=pnpm.parse,
        ecosystem=Ecosystem.NPM,
    ),
    "yarn.lock": Format(
        names=("yarn.lock",), looks_like=yarn.looks_like, parse=yarn.parse, ecosystem=Ecosystem.NPM
    ),
    "conda-lock": Format(
        names=("conda-lock.yml", "conda-lock.yaml", "*.conda-lock.yml", "conda-*.lock"),
        looks_like=conda.looks_like,
        parse=conda.parse,
    ),
    "requirements.txt": Format(
        names=("*.txt",), looks_like=requirements.looks_like, parse=requirements.parse
    ),
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
        if known.looks_like(text):
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
    lock = FORMATS[detect(filename, text)].parse(filename, _with_unix_lines(text), read)
    return replace(lock, filename=filename)


def _with_unix_lines(text: str) -> str:
    """Give a text as the readers take it: git on Windows ends lines otherwise."""
    return text.replace("\r\n", "\n")
