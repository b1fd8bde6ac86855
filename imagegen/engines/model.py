"""What engines tell: of bases, of images, and of commands that ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a base has, as it says itself. `libc_version` is empty where it is not known.

    `node` says whether Node.js and npm are there.
    """

    python: str
    arch: str
    libc: str
    libc_version: str
    git: bool
    venv: bool
    ca: bool
    node: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image in the engine; `size` is in bytes."""

    id: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that ended: its exit code, the end of what it printed, and how long it took."""

    code: int
    output: str
    seconds: float
