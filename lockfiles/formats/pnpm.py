"""pnpm-lock.yaml, versions 6 and 9.

Version 6 keys `packages` by `/name@version(peers)`, 9 by `name@version` and keeps what peers change
in `snapshots`. Packages that are not from the registry say their own name and version in 6, and
carry their place as the version of the key in 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from lockfiles.document import Table
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read, in_groups
from lockfiles.formats.node import Entry, node_lock
from lockfiles.model import Lock, Package
from lockfiles.platforms import Platforms
from lockfiles.urls import redact
from lockfiles.yaml_document import parse_yaml

_FORMAT = "pnpm-lock.yaml"
_DEV = "dev"
_KEY = re.compile(r"/?(?P<name>@?[^@/]+(?:/[^@/]+)?)@(?P<version>[^()]+)(?:\(.*)?", re.DOTALL)
_TRUE = "true"


def looks_like(text: str) -> bool:
    """Say whether the text begins as pnpm's locks do."""
    return re.match(r"(?:---\s*)?lockfileVersion: ", text) is not None


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a pnpm-lock.yaml. Raises LockError with the path.

    `dev` is a group in version 6; version 9 no longer says which packages are for development, and
    all of them are taken.
    """
    top = parse_yaml(filename, text, LockError)
    version = top.string("lockfileVersion", "").partition(".")[0]
    if version not in ("6", "9"):
        raise top.fault(
            "lockfileVersion", "only versions 6 and 9 are known", "write the lock with pnpm 8 or a later one"
        )
    optional = _optional(top.table("snapshots"))
    packages = _packages(top.table("packages"), optional)
    return node_lock(_FORMAT, filename, packages, (_DEV,) if version == "6" else ())


def _optional(snapshots: Table) -> frozenset[str]:
    """Give the keys that all snapshots of a package call optional."""
    said: dict[str, bool] = {}
    for key, table in snapshots.named_tables():
        name = key.partition("(")[0]
        said[name] = said.get(name, True) and table.string("optional", "") == _TRUE
    return frozenset(name for name, optional in said.items() if optional)


def _packages(packages: Table, optional: frozenset[str]) -> Iterator[Package]:
    for key, table in packages.named_tables():
        resolution = table.table("resolution")
        if "directory" in resolution.value:
            continue  # the user's own
        try:
            entry = _entry(key, table, resolution, key in optional)
            package = entry.package()
        except ValueError as error:
            raise table.fault("", redact(str(error))) from error
        yield replace(package, marker=in_groups([_DEV])) if table.string("dev", "") == _TRUE else package


def _entry(key: str, table: Table, resolution: Table, optional: bool) -> Entry:
    match = _KEY.fullmatch(key)
    name = table.string("name", match["name"] if match else "")
    version = table.string("version", "" if not match or ":" in match["version"] else match["version"])
    resolved = resolution.string("tarball", "")
    if "commit" in resolution.value:
        repository = resolution.string("repo")
        resolved = f"git+{repository}#{resolution.string('commit')}"
    return Entry(
        name=name,
        version=version,
        resolved=resolved,
        integrity=resolution.string("integrity", ""),
        platforms=Platforms(
            os=table.strings("os", ()), cpu=table.strings("cpu", ()), libc=table.strings("libc", ())
        ),
        optional=optional or table.string("optional", "") == _TRUE,
    )
