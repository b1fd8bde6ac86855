"""Pipfile.lock of pipenv: pinned versions and digests by category, files left to the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from lockfiles.document import Table, parse_json
from lockfiles.errors import LockError
from lockfiles.formats.fields import Read, both, in_groups, parse_lock_marker
from lockfiles.model import (
    Artifact,
    Digest,
    GitSource,
    IndexSource,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.specs import normalize
from lockfiles.urls import filename_of, is_commit, redact

_MAIN = "default"


def looks_like(text: str) -> bool:
    """Say whether the text has the key that only Pipfile.lock has."""
    return re.match(r'\s*\{\s*"_meta"', text) is not None and '"pipfile-spec"' in text


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a Pipfile.lock; its categories but `default` are groups. Raises LockError with the path.

    Entries without version and hash stay: pipenv writes them for what the machine that made the
    lock does not need, and only a target that does need one is in trouble.
    """
    top = parse_json(filename, text, LockError)
    urls = [source.string("url") for source in top.table("_meta").tables("sources")]
    groups = tuple(name for name in top.value if name not in ("_meta", _MAIN))
    packages = tuple(
        _package(name, table, category)
        for category in (_MAIN, *groups)
        for name, table in top.table(category).named_tables()
    )
    return Lock(
        format="Pipfile.lock",
        packages=packages,
        groups=groups,
        options={"index-url": tuple(urls[:1]), "extra-index-url": tuple(urls[1:])},
    )


def _package(name: str, table: Table, category: str) -> Package:
    digests = tuple(_digests(table))
    marker = table.parsed("markers", parse_lock_marker)
    try:
        source = _source(table)
        package = Package(
            name=normalize(name),
            version=table.string("version", "*").removeprefix("==").strip(),
            marker=marker if category == _MAIN else both(in_groups([category]), marker),
            digests=digests,
            source=source,
        )
        if isinstance(source, UrlSource):
            file = Artifact(filename=filename_of(source.url), digests=digests[:1], url=source.url)
            return replace(package, artifacts=(file,), digests=(), version=None)
    except ValueError as error:
        raise table.fault("", redact(str(error))) from error
    return package if package.version != "*" else replace(package, version=None)


def _digests(table: Table) -> Iterator[Digest]:
    for index, text in enumerate(table.strings("hashes", ())):
        try:
            yield Digest.parse(text)
        except ValueError as error:
            raise table.document.fault((*table.path, "hashes", index), str(error)) from error


def _source(table: Table) -> Source:
    """Read where an entry comes from. Raises ValueError."""
    subdirectory = table.string("subdirectory", None)
    if git := table.string("git", None):
        if not is_commit(commit := table.string("ref", "")):
            raise ValueError("a git dependency must be pinned to a commit of 40 hexadecimal digits")
        return GitSource(url=git, commit=commit, subdirectory=subdirectory)
    if path := table.string("path", None):
        return PathSource(path=path, editable=table.boolean("editable", False), subdirectory=subdirectory)
    if file := table.string("file", None):
        if file.startswith(("https://", "http://")):
            return UrlSource(url=file, subdirectory=subdirectory)
        return PathSource(path=file.removeprefix("file:").removeprefix("//"), subdirectory=subdirectory)
    return IndexSource()
