"""The edges of poetry.lock before 2.1, where packages and the project name what they depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from packaging.utils import canonicalize_name

from lockfiles.document import Table
from lockfiles.formats.edges import Edges, rooted
from lockfiles.formats.poetry_project import wanted_in
from lockfiles.formats.project import Project, Wanted
from lockfiles.model import Lock, Package
from lockfiles.specs import parse_marker

_EXTRA = re.compile(r'extra (==|!=) "([^"]*)"')
_HOLDS = {True: 'python_version >= "0"', False: 'python_version < "0"'}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def connected(lock: Lock, tables: Sequence[Table], project: Project) -> Lock:
    """Complete a lock with the edges between its packages and those of the project."""
    edges = Edges(lock.packages, project)
    packages = [_package(p, table, edges) for p, table in zip(lock.packages, tables, strict=True)]
    return rooted(lock, packages, edges, project)


def _package(package: Package, table: Table, edges: Edges) -> Package:
    declared = list(wanted_in(table.table("dependencies")))
    extras = table.table("extras")
    try:
        return replace(
            package,
            dependencies=edges.to(wanted for wanted, optional in declared if not optional),
            extras={
                extra: edges.to(
                    _of_extra(extra, extras.strings(extra), (w for w, optional in declared if optional))
                )
                for extra in extras.value
            },
        )
    except ValueError as error:
        raise table.fault("dependencies", str(error)) from error


def _of_extra(extra: str, texts: Sequence[str], declared: Iterator[Wanted]) -> Iterator[Wanted]:
    """Give the optional dependencies that an extra lists, with markers decided for this extra."""
    names = {canonicalize_name(match[0]) for text in texts if (match := _NAME.match(text))}

    def decided(match: re.Match[str]) -> str:
        return _HOLDS[(canonicalize_name(match[2]) == canonicalize_name(extra)) == (match[1] == "==")]

    for wanted in declared:
        if wanted.name in names:
            marker = _EXTRA.sub(decided, str(wanted.marker)) if wanted.marker is not None else None
            yield replace(wanted, marker=parse_marker(marker) if marker else None)
