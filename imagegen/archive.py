"""Files on their way into an engine: as a tar stream that is the same each time, or as a folder."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_BLOCK = 512
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file at a relative path: its bytes, or the file on disk that has them, or a link's target.

    Raises ValueError for a path that leads out of the archive.
    """

    path: str
    content: bytes | Path = b""
    link: str | None = None
    mode: int = 0o644

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts:
            raise ValueError(f"{self.path!r} is not a path inside an archive")


def tar_stream(entries: Iterable[Entry], *, uid: int = 0) -> Iterator[bytes]:
    """Give a tar of the entries, sorted, with their folders, all owned by `uid` and without times."""
    seen: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.path):
        for folder in reversed(PurePosixPath(entry.path).parents):
            if str(folder) != "." and str(folder) not in seen:
                seen.add(str(folder))
                yield _header(str(folder), uid, tarfile.DIRTYPE, mode=0o755)
        if entry.link is not None:
            yield _header(entry.path, uid, tarfile.SYMTYPE, mode=0o777, link=entry.link)
        else:
            yield from _file(entry, uid)
    yield bytes(2 * _BLOCK)


def write_folder(entries: Iterable[Entry], folder: Path) -> None:
    """Write the entries below a new folder; files on disk are hard-linked where that can be."""
    for entry in entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry.content, bytes):
            path.write_bytes(entry.content)
            path.chmod(entry.mode)
        else:
            _link_or_copy(entry.content, path)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _file(entry: Entry, uid: int) -> Iterator[bytes]:
    if isinstance(entry.content, bytes):
        yield _header(entry.path, uid, tarfile.REGTYPE, mode=entry.mode, size=len(entry.content))
        yield entry.content
        yield _padding(len(entry.content))
        return
    with entry.content.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield _header(entry.path, uid, tarfile.REGTYPE, mode=entry.mode, size=size)
        for start in range(0, size, _CHUNK):
            length = min(_CHUNK, size - start)
            # A file that shrinks meanwhile must not shift what follows it.
            yield file.read(length).ljust(length, b"\0")
        yield _padding(size)


def _header(path: str, uid: int, kind: bytes, *, mode: int, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    info.uid = info.gid = uid
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
