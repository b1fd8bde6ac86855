"""What a pyproject.toml says to poetry: `[tool.poetry]` with its groups and extras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.markers import Marker

from lockfiles.document import Table, parse_toml
from lockfiles.errors import LockError
from lockfiles.formats.constraint import python_marker
from lockfiles.formats.fields import Read, both
from lockfiles.formats.project import Project, Wanted, WantedBy, text_beside
from lockfiles.specs import normalize, parse_marker

_PLATFORM = 'sys_platform == "{}"'


def optional_groups(filename: str, read: Read | None) -> frozenset[str]:
    """Name the groups that poetry installs only when told so, where the project is at hand."""
    path, text = text_beside(filename, read)
    if text is None:
        return frozenset()
    groups = parse_toml(path, text, LockError).table("tool").table("poetry").table("group")
    return frozenset(name for name, group in groups.named_tables() if group.boolean("optional", False))


def needed(filename: str, read: Read | None) -> Project:
    """Read the project beside a lock that cannot do without. Raises LockError."""
    path, text = text_beside(filename, read)
    if text is None:
        raise LockError(
            "poetry.lock before version 2.1 does not name the project's dependencies, pyproject.toml does",
            where=filename,
            hint=f"put {path} beside it, or lock again with poetry 2",
        )
    return _project(parse_toml(path, text, LockError).table("tool").table("poetry"))


def _project(poetry: Table) -> Project:
    main = poetry.table("dependencies")
    groups = {name: group.table("dependencies") for name, group in poetry.table("group").named_tables()}
    if "dev-dependencies" in poetry.value:
        groups["dev"] = poetry.table("dev-dependencies")
    optional = {
        name for name, group in poetry.table("group").named_tables() if group.boolean("optional", False)
    }
    return Project(
        dependencies=tuple(wanted for wanted, asked in wanted_in(main) if not asked),
        extras=_extras(poetry.table("extras"), main),
        groups={name: tuple(wanted for wanted, _ in wanted_in(table)) for name, table in groups.items()},
        default_groups=tuple(name for name in groups if name not in optional),
    )


def _extras(table: Table, main: Table) -> WantedBy:
    by_name: dict[str, list[Wanted]] = {}
    for wanted, _ in wanted_in(main):
        by_name.setdefault(wanted.name, []).append(wanted)
    return {
        extra: tuple(
            wanted for name in table.strings(extra) for wanted in by_name.get(_normal(table, name), ())
        )
        for extra in table.value
    }


def wanted_in(table: Table) -> Iterator[tuple[Wanted, bool]]:
    """Give the dependencies of a table in poetry's notation, and whether each is optional."""
    for name, value in table.value.items():
        if name == "python":
            continue
        if isinstance(value, str):
            yield Wanted(name=_normal(table, name), constraint=table.string(name)), False
            continue
        entries = [table.table(name)] if isinstance(value, Mapping) else table.tables(name)
        for entry in entries:
            yield _wanted(_normal(table, name), entry), entry.boolean("optional", False)


def _wanted(name: str, entry: Table) -> Wanted:
    marker = both(entry.parsed("markers", parse_marker), entry.parsed("python", python_marker))
    return Wanted(
        name=name,
        constraint=entry.string("version", ""),
        extras=entry.strings("extras", ()),
        marker=both(marker, entry.parsed("platform", _platform_marker)),
    )


def _platform_marker(platform: str) -> Marker:
    return parse_marker(_PLATFORM.format(platform))


def _normal(table: Table, name: str) -> str:
    try:
        return normalize(name)
    except ValueError as error:
        raise table.fault(name, str(error)) from error
