"""The layers of an image merged into one tar, as engines stack them (OCI image specification, layers).

What comes from elsewhere may be hostile: a path that leads out is refused, devices are left out, links
between files become files, and the sum is bounded. Nothing is unpacked.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from imagegen.errors import BaseError

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_MOST_FILES = 2_000_000
_MOST_BYTES = 64 << 30


@dataclass(slots=True)
class _Covered:
    """What the layers above hide: paths, and all that lies below some of them."""

    paths: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        return path in self.paths or path in self.trees or any(above in self.trees for above in _above(path))


def merge(layers: Sequence[Path], out: IO[bytes], where: str) -> None:
    """Write the merged tar of layers (plain tars), the lowest first. Raises BaseError."""
    covered, left = _Covered(), _Left(where=where, files=_MOST_FILES, size=_MOST_BYTES)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as merged:
        for layer in reversed(layers):
            below = _Covered()
            for member, content in _members(layer, left):
                left.take(size=member.size)
                path = member.name.removeprefix("./")
                if _hidden(path, below) or covered.hides(path):
                    continue
                (below.paths if member.isdir() else below.trees).add(path)
                merged.addfile(member, content)
            covered.paths |= below.paths
            covered.trees |= below.trees


@dataclass(slots=True, kw_only=True)
class _Left:
    """How much more an image may hold."""

    where: str
    files: int
    size: int

    def take(self, *, files: int = 0, size: int = 0) -> None:
        """Count. Raises BaseError."""
        self.files, self.size = self.files - files, self.size - size
        if self.files < 0 or self.size < 0:
            raise BaseError("its layers hold far too much", where=self.where)


def _members(layer: Path, left: _Left) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Give what a layer has, the last of each name; names are checked, links between files followed."""
    try:
        with tarfile.open(layer, "r:") as archive:
            for name, (member, source) in _last(archive, left).items():
                if found := _member(archive, name, member, source):
                    yield found
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise BaseError(f"a layer is no readable tar: {error}", where=left.where) from error


def _last(archive: tarfile.TarFile, left: _Left) -> dict[str, tuple[tarfile.TarInfo, tarfile.TarInfo]]:
    """Give the last member of each name and what has its content: for a link, what it led to then.

    A link to a file of a lower layer, or to nothing, leads to itself.
    """
    found: dict[str, tuple[tarfile.TarInfo, tarfile.TarInfo]] = {}
    for member in archive:
        left.take(files=1)
        source = member
        if member.islnk():
            source = found.get(posixpath.normpath(member.linkname).lstrip("/"), (member, member))[1]
        found[_name(member.name, left.where)] = (member, source)
    return found


def _member(
    archive: tarfile.TarFile, name: str, member: tarfile.TarInfo, source: tarfile.TarInfo
) -> tuple[tarfile.TarInfo, IO[bytes] | None] | None:
    if not name or not (source.isreg() or member.isdir() or source.issym()):
        return None
    # As mmdebstrap writes it, so that both are unpacked alike.
    fresh = tarfile.TarInfo(f"./{name}")
    fresh.mode, fresh.uid, fresh.gid = member.mode & 0o7777, member.uid, member.gid
    fresh.mtime = int(member.mtime)
    if member.isdir():
        fresh.type = tarfile.DIRTYPE
        return fresh, None
    if source.issym():
        fresh.type, fresh.linkname = tarfile.SYMTYPE, source.linkname
        return fresh, None
    content = archive.extractfile(source)
    if content is None:
        return None
    fresh.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    return fresh, content


def _hidden(name: str, below: _Covered) -> bool:
    """Say whether an entry only hides what lies below, and note what."""
    folder, base = posixpath.split(name)
    if base == _OPAQUE:
        below.trees.add(f"{folder}/")
    elif base.startswith(_WHITEOUT):
        below.trees.add(posixpath.join(folder, base.removeprefix(_WHITEOUT)))
    return base.startswith(_WHITEOUT)


def _above(path: str) -> Iterator[str]:
    """Give the folders above a path; one with a slash at its end stands for what is in it only."""
    while path := posixpath.dirname(path):
        yield path
        yield f"{path}/"
    yield "/"


def _name(name: str, where: str) -> str:
    """Give the normal form of a path in the root; "" for the root itself."""
    if ".." in name.split("/") or "\0" in name:
        raise BaseError(f"a layer has the path {name[:100]!r}, which leads out of it", where=where)
    normal = posixpath.normpath(name).lstrip("/")
    return "" if normal == "." else normal
