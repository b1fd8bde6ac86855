"""uv.lock, version 1 with all its revisions.

The root project's edges say what is installed. Markers of edges may name extras and groups that
exclude each other, in uv's own encoding (`extra-7-project-cpu`): see `lockfiles.closure`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from packaging.markers import Marker

from lockfiles.closure import activation, project_activation
from lockfiles.document import Table, parse_toml
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read, both, either, file_of, parse_lock_marker
from lockfiles.formats.project import project_beside
from lockfiles.model import (
    Dependencies,
    Dependency,
    GitSource,
    IndexSource,
    Key,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.specs import check_version, normalize, parse_specifier
from lockfiles.urls import is_commit

_LOCAL = ("virtual", "editable", "directory", "path")


def looks_like(text: str) -> bool:
    """Say whether the text begins as uv.lock does."""
    return re.match(r"\s*version = \d+\n(?:revision = \d+\n)?requires-python = ", text) is not None


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a uv.lock; `read` gives the pyproject.toml beside it, for its default groups.

    Raises LockError with path and line.
    """
    top = parse_toml(filename, text, LockError)
    if top.integer("version", 0) != 1:
        raise top.fault(
            "version", "only version 1 of uv.lock is known", "write the lock with a newer lockstock"
        )
    return _Reader(top).lock(_default_groups(filename, read))


def _default_groups(filename: str, read: Read | None) -> tuple[str, ...]:
    project = project_beside(filename, read)
    return project.default_groups if project else ("dev",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A package whose edges are not yet read, since they may lead to later ones."""

    table: Table
    package: Package
    forks: tuple[str, ...]


class _Reader:
    """Reads the packages first, then the edges between them."""

    def __init__(self, top: Table) -> None:
        self._top = top
        self._manifest = top.table("manifest")
        self._entries: dict[str, list[_Entry]] = defaultdict(list)
        for table in top.tables("package"):
            entry = _entry(table)
            self._entries[entry.package.name].append(entry)

    def lock(self, default_groups: tuple[str, ...]) -> Lock:
        top = self._top
        packages = [self._connected(entry) for entries in self._entries.values() for entry in entries]
        roots = list(self._roots(packages))
        requires_python = top.parsed("requires-python", parse_specifier)
        environments = top.strings("supported-markers", ())
        groups = tuple(dict.fromkeys(group for root in roots for group in root.groups))
        return Lock(
            format="uv.lock",
            packages=(*packages, *(root for root in roots if root not in packages)),
            requires_python=str(requires_python) if requires_python is not None else None,
            environments=tuple(_marker(top, "supported-markers", text) for text in environments),
            extras=tuple(dict.fromkeys(extra for root in roots for extra in root.extras)),
            groups=groups,
            default_groups=tuple(g for g in groups if g in default_groups),
            roots=tuple(root.key for root in roots),
            conflicts=tuple(self._conflicts()),
        )

    def _roots(self, packages: Iterable[Package]) -> Iterator[Package]:
        """Give what `uv sync` starts from: the project here, or else every member of the workspace.

        What only the manifest asks for (scripts, groups of a workspace without a project) hangs on
        a root of its own.
        """
        manifest = self._manifest
        here = [p for p in packages if isinstance(p.source, PathSource) and p.source.path == "."]
        members = set(manifest.strings("members", ()))
        yield from here or (p for p in packages if p.name in members)
        requirements = tuple(self._wanted(manifest.tables("requirements")))
        groups = {
            name: tuple(self._wanted(manifest.table("dependency-groups").tables(name)))
            for name in manifest.table("dependency-groups").value
        }
        if requirements or groups:
            yield Package(
                name="",
                source=PathSource(path=".", virtual=True),
                dependencies=requirements,
                groups=groups,
            )

    def _wanted(self, requirements: Iterable[Table]) -> Iterator[Dependency]:
        """Give the edges to whatever is locked for a name, each for the forks it was locked for."""
        for table in requirements:
            marker = table.parsed("marker", parse_lock_marker)
            for entry in self._candidates(table):
                forks = either([_marker(entry.table, "resolution-markers", text) for text in entry.forks])
                extras = table.strings("extras", ())
                yield Dependency(keys=(entry.package.key,), extras=extras, marker=both(marker, forks))

    def _connected(self, entry: _Entry) -> Package:
        table, package = entry.table, entry.package
        return replace(
            package,
            dependencies=tuple(map(self._edge, table.tables("dependencies"))),
            extras={**package.extras, **self._edges(table.table("optional-dependencies"))},
            groups={**package.groups, **self._edges(table.table("dev-dependencies"))},
        )

    def _edges(self, table: Table) -> Dependencies:
        return {name: tuple(map(self._edge, table.tables(name))) for name in table.value}

    def _edge(self, table: Table) -> Dependency:
        found = self._candidates(table)
        if len(found) > 1:
            version = table.string("version", None)
            source = _source(table.table("source")) if "source" in table.value else None
            keys = [entry.package.key for entry in found]
            found = [e for e, key in zip(found, keys, strict=True) if _matches(key, version, source)]
        if len(found) != 1:
            raise table.fault("name", "this dependency leads to no package of the lock, or to several")
        return Dependency(
            keys=(found[0].package.key,),
            extras=table.strings("extra", ()),
            marker=table.parsed("marker", parse_lock_marker),
        )

    def _candidates(self, table: Table) -> list[_Entry]:
        name = table.string("name")
        if name not in self._entries:
            raise table.fault("name", f"{name!r} is not in the lock")
        return self._entries[name]

    def _conflicts(self) -> Iterator[frozenset[str]]:
        for tables in self._top.arrays_of_tables("conflicts"):
            yield frozenset(map(_conflicting, tables))


def _conflicting(table: Table) -> str:
    package = table.string("package")
    for kind in ("extra", "group"):
        if name := table.string(kind, None):
            return activation(kind, package, name)
    return project_activation(package)


def _matches(key: Key, version: str | None, source: Source | None) -> bool:
    return version in (None, key[1]) and source in (None, key[2])


def _marker(table: Table, key: str, text: str) -> Marker:
    try:
        return parse_lock_marker(text)
    except ValueError as error:
        raise table.fault(key, str(error)) from error


def _entry(table: Table) -> _Entry:
    """Read a package but for its edges. Extras and groups without any are known to its metadata."""
    source = _source(table.table("source"))
    url = source.url if isinstance(source, UrlSource) else None
    sdist = [table.table("sdist")] if "sdist" in table.value else []
    files = [*table.tables("wheels"), *sdist]
    if isinstance(source, PathSource):
        files = []
    metadata = table.table("metadata")
    package = Package(
        name=table.required("name", normalize),
        version=table.parsed("version", check_version),
        artifacts=tuple(file_of(file, url) for file in files),
        source=source,
        extras=dict.fromkeys(metadata.strings("provides-extras", ()), ()),
        groups=dict.fromkeys(metadata.table("requires-dev").value, ()),
    )
    return _Entry(table=table, package=package, forks=table.strings("resolution-markers", ()))


def _source(table: Table) -> Source:
    if registry := table.string("registry", None):
        return IndexSource(url=registry)
    if url := table.string("url", None):
        return UrlSource(url=url, subdirectory=table.string("subdirectory", None))
    if git := table.string("git", None):
        return _git(table, git)
    for kind in _LOCAL:
        if (path := table.string(kind, None)) is not None:
            return PathSource(path=path, editable=kind == "editable", virtual=kind == "virtual")
    raise table.fault("", "a source of a kind that is not known")


def _git(table: Table, url: str) -> GitSource:
    """Read `https://host/repo?rev=main&subdirectory=x#COMMIT`."""
    address, _, commit = url.partition("#")
    address, _, query = address.partition("?")
    if not is_commit(commit):
        raise table.fault("git", "a git source must end in a commit of 40 hexadecimal digits")
    subdirectory = parse_qs(query).get("subdirectory", [None])[0]
    return GitSource(url=address, commit=commit, subdirectory=subdirectory)
