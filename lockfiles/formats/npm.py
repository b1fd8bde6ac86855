"""package-lock.json of npm in versions 1, 2 and 3, and npm-shrinkwrap.json, which is the same.

Version 1 nests `dependencies`; 2 and 3 list `packages` by their place below the project (2 repeats
them as 1 does). The places matter to npm, here only what lies there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from lockfiles.document import Table, parse_json
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read, in_groups
from lockfiles.formats.node import Entry, node_lock
from lockfiles.model import Lock, Package
from lockfiles.platforms import Platforms
from lockfiles.urls import redact

_FORMAT = "package-lock.json"
_DEV = "dev"
_FOLDER = "node_modules/"
_LONGEST_PLACE = 4096
_ALIAS = re.compile(r"npm:(?P<name>@?[^@]+)@(?P<version>[^@]+)")


def looks_like(text: str) -> bool:
    """Say whether the text has the key that only npm's locks have."""
    return text.lstrip().startswith("{") and re.search(r'"lockfileVersion"\s*:\s*\d', text[:2000]) is not None


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read npm's lock; `dev` is a group. Raises LockError with the path.

    A lock that lacks optional packages which it names is refused, as `npm ci` refuses it: npm leaves
    out those of other platforms when it writes a lock beside an old node_modules.
    """
    top = parse_json(filename, text, LockError)
    version = top.integer("lockfileVersion", 0)
    if version == 1:
        packages = list(_nested(top))
    elif version in (2, 3):
        packages = list(_listed(top))
        _check_complete(top)
    else:
        raise top.fault(
            "lockfileVersion",
            f"version {version} is not known; 1, 2 and 3 are",
            "write the lock with `npm install --package-lock-only --lockfile-version 3`",
        )
    return node_lock(_FORMAT, filename, packages, (_DEV,))


def _listed(top: Table) -> Iterator[Package]:
    for place, table in top.table("packages").named_tables():
        if len(place) > _LONGEST_PLACE:
            raise top.fault("packages", "a place is longer than any path may be")
        if _FOLDER in place and not table.boolean("link", False) and not table.boolean("inBundle", False):
            name = table.string("name", place.rpartition(_FOLDER)[2])
            optional = table.boolean("optional", False) or table.boolean("devOptional", False)
            yield _package(table, name, table.string("version", ""), _resolved(table), optional=optional)


def _nested(top: Table) -> Iterator[Package]:
    """Give what version 1 nests, however deep, in the order of the lock."""
    waiting = [top.table("dependencies").named_tables()]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
            continue
        name, table = item
        waiting.append(table.table("dependencies").named_tables())
        if not table.boolean("bundled", False):
            optional = table.boolean("optional", False)
            yield _package(table, *_of_version_1(name, table), optional=optional)


def _of_version_1(name: str, table: Table) -> tuple[str, str, str]:
    """Give name, version and place; `version` holds an alias, or the place of what is not of the registry."""
    version = table.string("version")
    if alias := _ALIAS.fullmatch(version):
        return alias["name"], alias["version"], _resolved(table)
    if ":" in version:
        return name, "", version
    return name, version, _resolved(table)


def _resolved(table: Table) -> str:
    """Give the place, if there is one; `false` stands for what is in a bundle."""
    return table.string("resolved", "") if table.value.get("resolved") is not False else ""


def _package(table: Table, name: str, version: str, resolved: str, *, optional: bool) -> Package:
    platforms = Platforms(os=_names(table, "os"), cpu=_names(table, "cpu"), libc=_names(table, "libc"))
    entry = Entry(
        name=name,
        version=version,
        resolved=resolved,
        integrity=table.string("integrity", ""),
        platforms=platforms,
        optional=optional,
    )
    try:
        package = entry.package()
    except ValueError as error:
        raise table.fault("", redact(str(error))) from error
    return replace(package, marker=in_groups([_DEV])) if table.boolean("dev", False) else package


def _names(table: Table, key: str) -> tuple[str, ...]:
    """Give a list that may be written as one string."""
    if isinstance(table.value.get(key), str):
        return (table.string(key),)
    return table.strings(key, ())


def _check_complete(top: Table) -> None:
    """See that what optional dependencies name is there. Raises LockError naming what is not."""
    packages = top.table("packages")
    missing = sorted(
        {
            f"{name} (of {place.rpartition(_FOLDER)[2]})"
            for place, table in packages.named_tables()
            for name in table.table("optionalDependencies").value
            if not table.boolean("inBundle", False) and not _is_found(packages, place, name)
        }
    )
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise LockError(
            f"optional packages are not in the lock: {', '.join(missing[:5])}{more}",
            where=top.document.name,
            hint="npm left out other platforms: remove node_modules and the lock, then run `npm install`",
        )


def _is_found(packages: Table, place: str, name: str) -> bool:
    """Look a name up as Node.js does, from a place outward."""
    while True:
        if f"{place}/{_FOLDER}{name}".removeprefix("/") in packages.value:
            return True
        if not place:
            return False
        place = place.rpartition(_FOLDER)[0].rstrip("/") if _FOLDER in place else place.rpartition("/")[0]
