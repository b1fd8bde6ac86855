"""Edges for locks that name dependencies as specifiers: which package each leads to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lockfiles.errors import LockError
from lockfiles.formats.constraint import allows
from lockfiles.formats.project import Project, Wanted, WantedBy
from lockfiles.model import Dependencies, Dependency, IndexSource, Lock, Package, PathSource
from lockfiles.specs import parse_version

_LEFT_OUT = {"pip", "setuptools", "wheel", "distribute"}
"""What older tools did not lock, since every environment had it."""


class Edges:
    """Finds the packages of a lock that a specifier can mean, the newest first, or the project."""

    def __init__(self, packages: Iterable[Package], project: Project) -> None:
        self._by_name: dict[str, list[Package]] = defaultdict(list)
        for package in (*packages, _root(project)):
            self._by_name[package.name].append(package)

    def to(self, wanted: Iterable[Wanted]) -> tuple[Dependency, ...]:
        """Give the edges for specifiers; what is not in the lock may be for machines it is not for."""
        return tuple(self._edges(wanted))

    def by_name(self, wanted: WantedBy) -> Dependencies:
        """Give the edges of each extra or group."""
        return {name: self.to(items) for name, items in wanted.items()}

    def _edges(self, wanted: Iterable[Wanted]) -> Iterator[Dependency]:
        for item in wanted:
            found = self._by_name.get(item.name, [])
            fitting = [p for p in found if len(found) == 1 or allows(item.constraint or "*", p.version or "")]
            newest = sorted(fitting, key=lambda p: parse_version(p.version or "0"), reverse=True)
            keys = tuple(dict.fromkeys(p.key for p in newest))
            if keys or item.name not in _LEFT_OUT:
                absent = ((item.name, None, IndexSource()),)
                yield Dependency(keys=keys or absent, extras=item.extras, marker=item.marker)


def rooted(lock: Lock, packages: Sequence[Package], edges: Edges, project: Project) -> Lock:
    """Complete a lock with a root: the project with its extras and groups. Raises LockError."""
    try:
        root = replace(
            _root(project),
            dependencies=edges.to(project.dependencies),
            extras=edges.by_name(project.extras),
            groups=edges.by_name(project.groups),
        )
    except ValueError as error:
        raise LockError(f"a version cannot be compared: {error}", where=lock.filename) from error
    return replace(
        lock,
        packages=(*packages, root),
        extras=tuple(root.extras),
        groups=tuple(root.groups),
        default_groups=project.default_groups,
        roots=(root.key,),
    )


def _root(project: Project) -> Package:
    return Package(name=project.name, source=PathSource(path=".", virtual=True))
