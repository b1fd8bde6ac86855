"""yarn.lock: version 1 with a syntax of its own, and that of Yarn 2 and later ("berry"), which is YAML.

Berry's checksums are of the zip files that it makes itself, so they say nothing about a tarball:
its integrity is asked of the registry.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote

from lockfiles.document import Table
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read
from lockfiles.formats.node import Entry, node_lock
from lockfiles.model import Lock, Package
from lockfiles.platforms import Platforms
from lockfiles.urls import redact
from lockfiles.yaml_document import parse_yaml

_VERSION_1 = re.compile(r"^# yarn lockfile v1$", re.MULTILINE)
_BERRY = re.compile(r"^__metadata:$", re.MULTILINE)
_BERRY_VERSIONS = frozenset(map(str, range(4, 11)))
_OWN = ("workspace:", "link:", "portal:", "patch:", "file:", "exec:", "virtual:")
_ALIAS = re.compile(r"npm:(?P<name>@?[^@]+)@.+")
_LABEL = re.compile(r"(?P<name>@?[^@]+)@(?P<place>.+)", re.DOTALL)
_FIELD = re.compile(r'  (?P<key>version|resolved|integrity) "?(?P<value>[^"\n]*)"?')
_CONDITION = re.compile(r"(?P<key>os|cpu|libc)=(?P<value>[\w!.-]+)")


def looks_like(text: str) -> bool:
    """Say whether the text has the mark of either version."""
    return _VERSION_1.search(text[:500]) is not None or _BERRY.search(text[:2000]) is not None


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a yarn.lock of any version. Raises LockError with the line, or the path.

    No version says which packages are for development only: all of them are taken. Version 1 knows
    no platforms either.
    """
    packages = _berry(filename, text) if _BERRY.search(text) else _version_1(filename, text)
    return node_lock("yarn.lock", filename, packages)


def _version_1(filename: str, text: str) -> Iterator[Package]:
    if not _VERSION_1.search(text):
        raise LockError("neither a yarn.lock of version 1 nor one of a later version", where=filename)
    header, start, fields = "", 0, dict[str, str]()
    for number, line in enumerate((*text.splitlines(), "end:"), 1):
        if line.startswith((" ", "#")) or not line:
            if match := _FIELD.fullmatch(line):
                fields.setdefault(match["key"], match["value"])
            continue
        if header:
            yield from _entry_of_version_1(f"{filename}:{start}", header, fields)
        if not line.endswith(":"):
            raise LockError("not a line of a yarn.lock", where=f"{filename}:{number}")
        header, start, fields = line.removesuffix(":"), number, {}


def _entry_of_version_1(where: str, header: str, fields: dict[str, str]) -> Iterator[Package]:
    """Give the package of an entry; one without a place is a folder of the user's own."""
    first = header.split(", ")[0].strip('"')
    match = _LABEL.fullmatch(first)
    if match is None or "version" not in fields:
        raise LockError("an entry needs a name, a range and a version", where=where)
    if "resolved" not in fields and match["place"].startswith(_OWN):
        return
    alias = _ALIAS.fullmatch(match["place"])
    entry = Entry(
        name=alias["name"] if alias else match["name"],
        version=fields["version"],
        resolved=fields.get("resolved", ""),
        integrity=fields.get("integrity", "") or _sha1_of(fields.get("resolved", "")),
    )
    try:
        yield entry.package()
    except ValueError as error:
        raise LockError(redact(str(error)), where=where) from error


def _sha1_of(resolved: str) -> str:
    """Give the sha1 that old versions of Yarn put into the fragment, as integrity."""
    digest = resolved.partition("#")[2]
    if not resolved.partition("#")[0].endswith(".tgz") or not re.fullmatch("[0-9a-f]{40}", digest):
        return ""
    return f"sha1-{b64encode(bytes.fromhex(digest)).decode('ascii')}"


def _berry(filename: str, text: str) -> Iterator[Package]:
    top = parse_yaml(filename, text, LockError)
    metadata = top.table("__metadata")
    if metadata.string("version", "") not in _BERRY_VERSIONS:
        raise metadata.fault("version", "only 4 to 10 are known", "write the lock with a newer lockstock")
    for key, table in top.named_tables():
        if key == "__metadata":
            continue
        match = _LABEL.fullmatch(table.string("resolution"))
        if match is None:
            raise table.fault("resolution", "must be a name and a place")
        if match["place"].startswith(_OWN):
            continue
        try:
            yield _berry_entry(match["name"], match["place"], table).package()
        except ValueError as error:
            raise table.fault("resolution", redact(str(error))) from error


def _berry_entry(name: str, place: str, table: Table) -> Entry:
    place, _, bindings = place.partition("::")
    archive = dict(part.partition("=")[::2] for part in bindings.split("&")).get("__archiveUrl", "")
    conditions = table.string("conditions", "")
    is_npm = place.startswith("npm:")
    return Entry(
        name=name,
        version=place.removeprefix("npm:") if is_npm else table.string("version"),
        resolved=unquote(archive) if is_npm else place,
        platforms=_platforms(conditions),
        optional=bool(conditions),
    )


def _platforms(conditions: str) -> Platforms:
    """Read `os=linux & (cpu=x64 | cpu=arm64) & libc=glibc`; what is named together is any of it."""
    found: dict[str, list[str]] = {"os": [], "cpu": [], "libc": []}
    for match in _CONDITION.finditer(conditions):
        found[match["key"]].append(match["value"])
    return Platforms(os=tuple(found["os"]), cpu=tuple(found["cpu"]), libc=tuple(found["libc"]))
