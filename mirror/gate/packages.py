"""What the mirror holds, as the gate asks for it: the package of a file, and names that are close."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Protocol
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from lockfiles.model import Ecosystem
from mirror.errors import StoreError
from mirror.gate.policy import Kind
from mirror.layout import Layout
from mirror.snapshot import LockRecord, Snapshot, Stocked

_CLOSE = 0.8
_BEFORE = 1
# `/simple/NAME/` and `/npm/NAME`, below whatever the trees are served under.
_PYTHON = re.compile(r"(?:/[^/]+)*?/simple/([^/]+)/?(?:index\.(?:html|json))?")
_NPM = re.compile(r"(?:/[^/]+)*?/npm/((?:@[^/]+/)?[^/@-][^/]*)/?")


class Stock(Protocol):
    """What the mirror holds: at one moment, or as it goes on."""

    def describe(self, sha256: str) -> dict[str, object]:
        """Say what package the bytes with this digest are, for a record; nothing where they are none."""
        ...

    def classify(self, ecosystem: str, name: str) -> tuple[Kind, str]:
        """Say what it is to ask for a name that is not there, and which held name is close to it."""
        ...


@dataclass(frozen=True, slots=True)
class Shelf:
    """The stocked files by digest with the locks that name them, and the names of each ecosystem."""

    files: Mapping[str, tuple[Stocked, tuple[str, ...]]]
    names: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Shelf:
        """Make the shelf of a snapshot; an empty one where there is none."""
        if snapshot is None:
            return cls({}, {})
        locks: dict[str, set[str]] = {}
        for selection in snapshot.selections:
            for digest in selection.artifacts:
                locks.setdefault(digest, set()).add(selection.lock)
        names: dict[str, set[str]] = {}
        for stocked in snapshot.artifacts:
            names.setdefault(stocked.ecosystem, set()).add(stocked.name)
        return cls(
            {a.sha256: (a, tuple(sorted(locks.get(a.sha256, ())))) for a in snapshot.artifacts},
            {ecosystem: frozenset(found) for ecosystem, found in names.items()},
        )

    def describe(self, sha256: str) -> dict[str, object]:
        """Say what package the bytes with this digest are, for a record; nothing where they are none."""
        if sha256 not in self.files:
            return {}
        stocked, locks = self.files[sha256]
        return {
            "ecosystem": stocked.ecosystem,
            "package": stocked.name,
            "version": stocked.version,
            "locks": list(locks),
        }

    def classify(self, ecosystem: str, name: str) -> tuple[Kind, str]:
        """Say what it is to ask for a name that is not there, and which held name is close to it."""
        near = get_close_matches(name, sorted(self.names.get(ecosystem, ())), 1, _CLOSE)
        return (Kind.NEAR_NAME, near[0]) if near and near[0] != name else (Kind.NOT_IN_LOCK, "")


class Current:
    """The stock that clients see now: a refresh may change it while a gate runs.

    A tree goes on serving the files of the one before it, and so those are known here, too.
    """

    def __init__(self, layout: Layout) -> None:
        """Read it. Raises StoreError."""
        self._layout = layout
        self._name = _served_name(layout)
        snapshot = layout.snapshots.load(self._name) if self._name else None
        self._shelves = [Shelf.of(snapshot)]
        self._lock = lock_digest(snapshot)

    def lock(self) -> str:
        """Give what stands for the locks that are served, in tokens."""
        self._look()
        return self._lock

    def describe(self, sha256: str) -> dict[str, object]:
        """Say what package the bytes with this digest are, for a record; nothing where they are none."""
        self._look()
        return next((found for shelf in self._shelves if (found := shelf.describe(sha256))), {})

    def classify(self, ecosystem: str, name: str) -> tuple[Kind, str]:
        """Say what it is to ask for a name that is not there, and which held name is close to it."""
        self._look()
        return self._shelves[0].classify(ecosystem, name)

    def _look(self) -> None:
        name = _served_name(self._layout)
        if name is None or name == self._name:
            return
        with suppress(StoreError):  # damaged, or just gone: what was known stays known
            snapshot = self._layout.snapshots.load(name)
            self._shelves = [Shelf.of(snapshot), *self._shelves[:_BEFORE]]
            self._lock, self._name = lock_digest(snapshot), name


def _served_name(layout: Layout) -> str | None:
    """Give the name of the snapshot whose tree is served, or else of the one that is current."""
    tree = layout.tree / "current"
    return tree.readlink().name if tree.is_symlink() else layout.snapshots.current_name()


def lock_digest(snapshot: Snapshot | None) -> str:
    """Give what stands for the locks of a snapshot, in tokens."""
    locks: tuple[LockRecord, ...] = snapshot.locks if snapshot else ()
    return sha256("".join(f"{lock.name} {lock.sha256}\n" for lock in locks).encode()).hexdigest()


def asked_package(path: str) -> tuple[str, str] | None:
    """Give the ecosystem and the canonical name of the package whose page a path is."""
    text = unquote(path.partition("?")[0])
    if not text.isprintable():
        return None  # a name that would be two lines in a report
    if match := _PYTHON.fullmatch(text):
        return Ecosystem.PYPI.value, canonicalize_name(match[1])
    if match := _NPM.fullmatch(text):
        return Ecosystem.NPM.value, match[1]
    return None
