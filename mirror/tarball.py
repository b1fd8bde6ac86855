"""Looks into an npm tarball without unpacking it: nothing may leave its folder, and it is what it says.

npm ignores links and strips the first folder; other clients unpack in ways of their own, so what
could do harm in any of them is refused here.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lockfiles.model import Package
from mirror.archives import BoundedTarInfo
from mirror.errors import UnsafeArchiveError

_MEMBERS_AT_MOST = 200_000
_UNPACKED_AT_MOST = 4 << 30
_MANIFEST_AT_MOST = 4 << 20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE)


def check_tarball(path: Path, package: Package) -> None:
    """See that a tarball holds this package and nothing that could leave it.

    Raises UnsafeArchiveError.
    """
    name = read_manifest(path, package.label).get("name")
    if name != package.name:
        raise UnsafeArchiveError(
            f"the tarball holds another package: {str(name)[:80]!r}", where=package.label
        )


def read_manifest(path: Path, label: str) -> dict[str, Any]:
    """Give a tarball's package.json, having looked at every entry. Raises UnsafeArchiveError."""
    try:
        found = [manifest for manifest in _manifests(path, label) if manifest is not None]
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        raise UnsafeArchiveError(f"the tarball cannot be read: {error}", where=label) from error
    if len(found) != 1:
        reason = "no package.json" if not found else "several package.json"
        raise UnsafeArchiveError(f"the tarball has {reason}", where=label)
    return found[0]


def _manifests(path: Path, label: str) -> Iterator[dict[str, Any] | None]:
    """Go through the entries as a stream. Raises UnsafeArchiveError and what tarfile and json raise."""
    unpacked = 0
    with tarfile.open(path, "r|*", tarinfo=BoundedTarInfo) as archive:
        for count, member in enumerate(archive):
            unpacked += member.size
            if count > _MEMBERS_AT_MOST or unpacked > _UNPACKED_AT_MOST:
                raise UnsafeArchiveError("the tarball has no end", where=label)
            _check(member, label)
            if member.isfile() and _is_manifest(member.name):
                yield _read(archive, member)


def _check(member: tarfile.TarInfo, label: str) -> None:
    parts = member.name.replace("\\", "/").split("/")
    if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in member.name:
        raise UnsafeArchiveError(f"the tarball has an entry that leaves it: {member.name!r}", where=label)
    if member.type not in _FILES:
        raise UnsafeArchiveError(
            f"the tarball has an entry that is neither file nor folder: {member.name!r}", where=label
        )


def _is_manifest(name: str) -> bool:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return len(parts) == 2 and parts[1] == "package.json"


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = archive.extractfile(member)
    if file is None or member.size > _MANIFEST_AT_MOST:
        raise ValueError("package.json is too large")
    manifest = json.loads(file.read().decode("utf-8-sig"))
    if not isinstance(manifest, dict):
        raise ValueError("package.json is not an object")
    return manifest
