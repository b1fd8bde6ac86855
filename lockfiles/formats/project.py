"""What a pyproject.toml adds to a lock that does not name the project's own dependencies."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.dependency_groups import resolve_dependency_groups
from packaging.markers import Marker
from packaging.utils import canonicalize_name

from lockfiles.document import Table, parse_toml
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read
from lockfiles.specs import normalize, parse_requirement

_MOST_REQUIREMENTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A dependency as a project or a package declares it; `constraint` is PEP 440's or poetry's."""

    name: str
    constraint: str = ""
    extras: tuple[str, ...] = ()
    marker: Marker | None = None


WantedBy = Mapping[str, tuple[Wanted, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a project asks for: by itself, and for each extra and group.

    `default_groups` are those that its tool installs when it is not told otherwise.
    """

    name: str = ""
    dependencies: tuple[Wanted, ...] = ()
    extras: WantedBy
    groups: WantedBy
    default_groups: tuple[str, ...]


def text_beside(filename: str, read: Read | None) -> tuple[str, str | None]:
    """Give the path and the text of the pyproject.toml beside a lock; None where it is not at hand."""
    path = posixpath.join(posixpath.dirname(filename), "pyproject.toml")
    try:
        return path, read(path) if read else None
    except (OSError, KeyError):
        return path, None


def project_beside(filename: str, read: Read | None) -> Project | None:
    """Read the pyproject.toml beside a lock, where it is at hand. Raises LockError."""
    path, text = text_beside(filename, read)
    return read_project(path, text) if text is not None else None


def read_project(filename: str, text: str) -> Project:
    """Read `[project]`, `[dependency-groups]` and pdm's own groups. Raises LockError."""
    top = parse_toml(filename, text, LockError)
    project = top.table("project")
    optional = project.table("optional-dependencies")
    groups = {**_groups(top), **_pdm_groups(top)}
    return Project(
        name=project.parsed("name", normalize) or "",
        dependencies=_parsed(project, "dependencies", project.strings("dependencies", ())),
        extras={name: _parsed(optional, name, optional.strings(name)) for name in optional.value},
        groups=groups,
        default_groups=_uv_defaults(top, groups),
    )


def wanted_of(text: str) -> Wanted:
    """Read a dependency specifier (PEP 508). Raises ValueError."""
    requirement = parse_requirement(text)
    return Wanted(
        name=normalize(requirement.name),
        constraint=str(requirement.specifier),
        extras=tuple(sorted(requirement.extras)),
        marker=requirement.marker,
    )


def _parsed(table: Table, key: str, texts: Iterable[str]) -> tuple[Wanted, ...]:
    try:
        return tuple(map(wanted_of, texts))
    except ValueError as error:
        raise table.fault(key, str(error)) from error


def _groups(top: Table) -> WantedBy:
    """Resolve `[dependency-groups]` (PEP 735)."""
    table = top.table("dependency-groups")
    try:
        _check_size(table.value)
        return {
            name: _parsed(table, name, resolve_dependency_groups(dict(table.value), name))
            for name in table.value
        }
    except (ExceptionGroup, ValueError, TypeError, LookupError) as error:
        raise top.fault("dependency-groups", str(error)) from error
    except RecursionError as error:
        raise top.fault("dependency-groups", "nested too deeply") from error


def _check_size(groups: Mapping[str, Any]) -> None:
    """Refuse groups that include others so often that all in all they fill the memory. Raises ValueError."""
    sizes: dict[str, int] = {}
    by_name = {canonicalize_name(name): items for name, items in groups.items()}

    def size(name: str) -> int:
        if name not in sizes:
            sizes[name] = 0  # what includes itself is refused when it is resolved
            items = by_name.get(canonicalize_name(name), ())
            sizes[name] = sum(size(str(i.get("include-group"))) if isinstance(i, dict) else 1 for i in items)
        return sizes[name]

    if sum(map(size, groups)) > _MOST_REQUIREMENTS:
        raise ValueError("they stand for too many requirements")


def _pdm_groups(top: Table) -> WantedBy:
    """Read pdm's groups from before PEP 735. Editable paths among them are not on an index."""
    table = top.table("tool").table("pdm").table("dev-dependencies")
    return {
        name: _parsed(table, name, [text for text in table.strings(name) if not text.startswith("-e ")])
        for name in table.value
    }


def _uv_defaults(top: Table, groups: WantedBy) -> tuple[str, ...]:
    uv = top.table("tool").table("uv")
    if uv.value.get("default-groups") == "all":
        return tuple(groups)
    return uv.strings("default-groups", ("dev",))
