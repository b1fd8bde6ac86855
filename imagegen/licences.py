"""The licence that a package states for itself, as an SPDX expression where it is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from lockfiles.errors import LockstockError
from lockfiles.model import Ecosystem
from mirror.publish import metadata
from mirror.snapshot import Stocked
from mirror.store import write_atomically
from mirror.tarball import read_manifest

CACHE = "licences-1.json"
"""The name of what is kept; the number changes when the same file is read in another way."""

_PREFIX = "License :: "
_LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Licence:
    """An SPDX expression, or else a name as the package writes it."""

    text: str
    is_expression: bool = False


def known_licences(
    files: Iterable[Stocked], stored: Callable[[str], Path], cache: Path
) -> Mapping[str, tuple[Licence, ...]]:
    """Give the licences of files by their sha256; `stored` says where one with that lies.

    What was read once is kept in `cache`, which may be deleted at any time: of npm's tarballs, all has
    to be decompressed.
    """
    known = _cached(cache)
    fresh = {
        file.sha256: licences_of(path, file)
        for file in files
        if file.sha256 not in known and (path := stored(file.sha256)).is_file()
    }
    if fresh:
        plain = {sha256: [asdict(one) for one in found] for sha256, found in (known | fresh).items()}
        write_atomically(cache, json.dumps(plain, sort_keys=True).encode())
    return known | fresh


def _cached(cache: Path) -> dict[str, tuple[Licence, ...]]:
    try:
        content = json.loads(cache.read_bytes()).items()
        return {str(sha256): tuple(Licence(**one) for one in found) for sha256, found in content}
    except (FileNotFoundError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def licences_of(path: Path, file: Stocked) -> tuple[Licence, ...]:
    """Give what a wheel, sdist or npm tarball says of its licence; nothing where it says nothing.

    Of Python's core metadata, License-Expression counts, else License where it is short, else the
    classifiers: so do the packaging specifications rank them.
    """
    if file.ecosystem == Ecosystem.NPM:
        try:
            return _of_npm(read_manifest(path, file.filename))
        except (LockstockError, OSError):
            return ()
    found: Mapping[str, Any] = metadata.read(path, file.filename) or {}
    return of_metadata(found)


def of_metadata(found: Mapping[str, Any]) -> tuple[Licence, ...]:
    """Choose among what core metadata, as `packaging.metadata` reads it, says."""
    stated = _stated([found.get("license_expression")]) or _stated([found.get("license")])
    if stated and stated[0].is_expression:
        return stated
    classified = [
        line.removeprefix(_PREFIX).rpartition(" :: ")[2]
        for line in found.get("classifiers") or ()
        if line.startswith(_PREFIX) and line != f"{_PREFIX}OSI Approved"
    ]
    return stated or _stated(sorted(set(classified)))


def _of_npm(manifest: Mapping[str, Any]) -> tuple[Licence, ...]:
    """Read `license`, and its older forms: an object with `type`, and a list of those."""
    value = manifest.get("license") or manifest.get("licenses")
    values = value if isinstance(value, list) else [value]
    return _stated(one.get("type") if isinstance(one, dict) else one for one in values)


def _stated(values: Iterable[object]) -> tuple[Licence, ...]:
    texts = [value.strip() for value in values if isinstance(value, str)]
    # Some write the whole text of their licence there.
    return tuple(_licence(text) for text in texts if text and len(text) <= _LONGEST and text.isprintable())


def _licence(text: str) -> Licence:
    try:
        return Licence(text=canonicalize_license_expression(text), is_expression=True)
    except InvalidLicenseExpression:
        return Licence(text=text)
