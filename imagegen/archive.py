"""Files on their way into an engine: as a tar stream that is the same each time, or as a folder."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from struct import pack

import deflate

_BLOCK = 512
_CHUNK = 1 << 20
# What fits into a header of POSIX.1-1988, so that none of POSIX.1-2001 goes before it: a path in
# two fields, which are divided at a slash, a size, and an owner.
_NAME, _PREFIX, _MOST, _MOST_OWNER = 100, 155, 8**11, 8**7
# No name, no time, no system.
_GZIP_HEAD = bytes.fromhex("1f8b08000000000000ff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Bytes that come in pieces, and how many they are."""

    size: int
    pieces: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflated:
    """Bytes, and the gzip member (RFC 1952) that was found to unfold to exactly these."""

    plain: bytes
    member: bytes


# Of a tar: what writes gzip may take the member of a file as it is.
Piece = bytes | Deflated


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file at a relative path: its bytes, or what has them, or a link's target.

    A `folder` has none of these. `owner`, user and group, is where it is not its archive's. A file on
    disk that is `packed` is compressed already: to do so again would take long, for nothing.
    Raises ValueError for a path that leads out of the archive.
    """

    path: str
    content: bytes | Deflated | Path | Stream = b""
    link: str | None = None
    mode: int = 0o644
    folder: bool = False
    owner: tuple[int, int] | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        if not {"", ".", ".."}.isdisjoint(self.path.split("/")):
            raise ValueError(f"{self.path!r} is not a path inside an archive")

    def pieces(self) -> Iterator[bytes]:
        """Give the content."""
        if isinstance(self.content, bytes):
            yield self.content
        elif isinstance(self.content, Deflated):
            yield self.content.plain
        elif isinstance(self.content, Stream):
            yield from self.content.pieces()
        else:
            with self.content.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk


def gzip_member(stream: bytes, crc: int, size: int) -> bytes:
    """Give the gzip member with a deflate stream; `crc` and `size` are of what that unfolds to."""
    return b"".join((_GZIP_HEAD, stream, pack("<LL", crc, size & 0xFFFFFFFF)))


def tar_stream(entries: Iterable[Entry], *, uid: int = 0) -> Iterator[bytes]:
    """Give a tar of the entries, sorted, with their folders, all owned by `uid` and without times."""
    return plainly(tar(entries, lambda _: uid))


def plainly(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Give the bytes of a tar."""
    return (piece.plain if isinstance(piece, Deflated) else piece for piece in pieces)


def tar(entries: Iterable[Entry], owner: Callable[[str], int], *, time: int = 0) -> Iterator[Piece]:
    """Give a tar of the entries, sorted, with their folders; `owner` says whose a path is.

    All have the same time, in seconds of the epoch.
    """
    seen: set[str] = set()
    for entry in sorted(entries, key=_order):
        for folder in _new_folders(entry.path, seen):
            yield _header(_info(folder, owner(folder), time), tarfile.DIRTYPE, mode=0o755)
        info = _info(entry.path, owner(entry.path), time)
        if entry.owner is not None:
            info.uid, info.gid = entry.owner
        if entry.folder:
            if entry.path not in seen:
                seen.add(entry.path)
                yield _header(info, tarfile.DIRTYPE, mode=entry.mode)
        elif entry.link is not None:
            yield _header(info, tarfile.SYMTYPE, mode=0o777, link=entry.link)
        else:
            yield from _file(entry, info)
    yield bytes(2 * _BLOCK)


def _order(entry: Entry) -> tuple[str, str]:
    """Sort bytecode beside its source, whose words it has again, and folders before what they have."""
    path = f"{entry.path}/" if entry.folder else entry.path
    return path.replace("/__pycache__/", "/"), entry.path


def _new_folders(path: str, seen: set[str]) -> list[str]:
    """Give the folders above a path that were not seen yet, from the highest down, and note them."""
    found = []
    folder = path.rpartition("/")[0]
    while folder and folder not in seen:
        seen.add(folder)
        found.append(folder)
        folder = folder.rpartition("/")[0]
    return found[::-1]


def write_folder(entries: Iterable[Entry], folder: Path, *, link: bool = True) -> None:
    """Write the entries below a folder; files on disk are hard-linked if they may be and that can be."""
    for entry in entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if link and isinstance(entry.content, Path):
            _link_or_copy(entry.content, path)
            continue
        with path.open("wb") as file:
            file.writelines(entry.pieces())
        path.chmod(entry.mode)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _file(entry: Entry, info: tarfile.TarInfo) -> Iterator[Piece]:
    content = entry.content
    if not isinstance(content, Path):
        size = _size(content)
        yield _header(info, tarfile.REGTYPE, mode=entry.mode, size=size)
        yield from [content] if isinstance(content, Deflated) else entry.pieces()
        yield _padding(size)
        return
    with content.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield _header(info, tarfile.REGTYPE, mode=entry.mode, size=size)
        for start in range(0, size, _CHUNK):
            length = min(_CHUNK, size - start)
            # A file that shrinks meanwhile must not shift what follows it.
            chunk = file.read(length).ljust(length, b"\0")
            yield _as_it_is(chunk) if entry.packed else chunk
        yield _padding(size)


def _as_it_is(data: bytes) -> Deflated:
    """Wrap data that compressing would not make smaller."""
    stream = bytes(deflate.deflate_compress(data, 0))
    return Deflated(plain=data, member=gzip_member(stream, deflate.crc32(data), len(data)))


def _size(content: bytes | Deflated | Stream) -> int:
    if isinstance(content, Stream):
        return content.size
    return len(content.plain if isinstance(content, Deflated) else content)


def _info(path: str, uid: int, time: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.uid = info.gid = uid
    info.mtime = time
    return info


def _header(info: tarfile.TarInfo, kind: bytes, *, mode: int, size: int = 0, link: str = "") -> bytes:
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    name = info.name.encode("utf-8", "surrogateescape")
    owner = max(info.uid, info.gid)
    if kind == tarfile.REGTYPE and name.isascii() and size < _MOST and owner < _MOST_OWNER:
        blank = _blank_header(mode, info.uid, info.gid, info.mtime)
        if len(name) <= _NAME:
            return _filled(blank, size, name)
        # As tarfile does, at the first slash that leaves a name short enough.
        cut = name.find(b"/", len(name) - _NAME - 1)
        if 0 < cut <= _PREFIX:
            return _filled(blank, size, name[cut + 1 :], name[:cut])
        return _path_header(name) + _filled(blank, size, name[:_NAME])
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _path_header(name: bytes) -> bytes:
    """Give the extended header with a path; its record begins with its own length, in as many digits."""
    length = len(name) + len(" path=\n")
    length += len(str(length + len(str(length))))
    record = b"%d path=%s\n" % (length, name)
    return _filled(_blank_path_header(), len(record)) + record + _padding(len(record))


def _filled(blank: bytes, size: int, name: bytes = b"", prefix: bytes = b"") -> bytes:
    """Give what tarfile would: an image has tens of thousands of files, and most differ in name and size."""
    header = bytearray(blank)
    header[: len(name)] = name
    header[345 : 345 + len(prefix)] = prefix
    header[124:135] = b"%011o" % size
    header[148:154] = b"%06o" % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    return bytes(header)


@lru_cache
def _blank_header(mode: int, uid: int, gid: int, time: float) -> bytes:
    info = tarfile.TarInfo()
    info.mode, info.uid, info.gid, info.mtime = mode, uid, gid, time
    return info.tobuf(tarfile.PAX_FORMAT)


@cache
def _blank_path_header() -> bytes:
    return tarfile.TarInfo("a" * (_NAME + 1)).tobuf(tarfile.PAX_FORMAT)[:_BLOCK]


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
