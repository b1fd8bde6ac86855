"""bun.lock, the text lock of Bun: JSON with trailing commas, one array for each package.

What an array holds depends on where its package comes from, which the first item tells:
`name@version`, then the registry, what package.json says, and the integrity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lockfiles.document import Table, parse_json
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read
from lockfiles.formats.node import Entry, node_lock
from lockfiles.model import Lock, Package
from lockfiles.platforms import Platforms
from lockfiles.urls import redact

_FORMAT = "bun.lock"
_VERSIONS = (0, 1, 2)
# A string that does not end is taken to the end: begun again at each quote, it would take for ever.
_TRAILING = re.compile(r'("(?:[^"\\]|\\.?)*(?:"|\Z))|//[^\n]*|,(?=\s*[}\]])', re.DOTALL)
_LABEL = re.compile(r"(?P<name>@?[^@]+)@(?P<version>.+)", re.DOTALL)
_OWN = ("workspace:", "link:", "file:", "root:")
_KIND = re.compile(r"[a-z+]+:")


def looks_like(text: str) -> bool:
    """Say whether the text begins as bun.lock does; npm's JSON has no such order of keys."""
    head = re.match(r'\s*\{\s*"lockfileVersion":\s*\d+,', text)
    return head is not None and '"workspaces": {' in text[:1000]


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a bun.lock. Raises LockError with the path.

    It does not say which packages are for development only: all of them are taken.
    """
    plain = _TRAILING.sub(lambda match: match[1] or "", text)
    top = parse_json(filename, plain, LockError)
    if top.integer("lockfileVersion", -1, minimum=-1) not in _VERSIONS:
        raise top.fault(
            "lockfileVersion", "only versions 0, 1 and 2 are known", "write the lock with a newer lockstock"
        )
    return node_lock(_FORMAT, filename, _packages(top.table("packages")))


def _packages(packages: Table) -> Iterator[Package]:
    for key, item in packages.value.items():
        if not isinstance(item, list) or not item or not isinstance(item[0], str):
            raise packages.fault(key, "must be an array that begins with a name and a version")
        match = _LABEL.fullmatch(item[0])
        if match is None:
            raise packages.fault(key, "must begin with a name and a version")
        facts = _facts(packages, key, item)
        if match["version"].startswith(_OWN) or facts.value.get("bundled") is True:
            continue
        try:
            yield _entry(match["name"], match["version"], item, facts).package()
        except ValueError as error:
            raise packages.fault(key, redact(str(error))) from error


def _facts(packages: Table, key: str, item: list[Any]) -> Table:
    """Give what an entry repeats of package.json."""
    facts = next((part for part in item[1:] if isinstance(part, dict)), {})
    return Table(packages.document, facts, (*packages.path, key))


def _entry(name: str, version: str, item: list[Any], facts: Table) -> Entry:
    """Read an entry: one of the registry has a URL of its own where that is not the usual one."""
    texts = [part for part in item[1:] if isinstance(part, str)]
    platforms = Platforms(os=_names(facts, "os"), cpu=_names(facts, "cpu"), libc=_names(facts, "libc"))
    integrity = next((text for text in texts if text.startswith(("sha512-", "sha256-", "sha1-"))), "")
    if _KIND.match(version):
        return Entry(name=name, version="", resolved=_place(version, texts), integrity=integrity)
    address = texts[0] if texts and texts[0].endswith(".tgz") else ""
    return Entry(
        name=name,
        version=version,
        resolved=address,
        integrity=integrity,
        platforms=platforms,
        optional=platforms != Platforms(),
    )


def _place(version: str, texts: list[str]) -> str:
    """Give a git place with its whole commit, which a short one in the label leaves to the last item."""
    address, _, commit = version.partition("#")
    whole = next(
        (text for text in (part.rpartition("-")[2] for part in texts) if text.startswith(commit)), ""
    )
    return f"{address}#{whole}" if commit and len(whole) > len(commit) else version


def _names(facts: Table, key: str) -> tuple[str, ...]:
    """Give a list that may be written as one string; `none` is Bun's word for what it does not know."""
    if isinstance(facts.value.get(key), str):
        return (facts.string(key),)
    return facts.strings(key, ())
