"""The format of bundles: plain tar volumes that carry a snapshot across an air gap.

A bundle is one or more tar files. Each begins with the same list of all that the bundle holds, by
sha256, and with its own number. Everything else about its bytes follows from that list: the order
of the members, their headers and their padding. So equal content gives equal bytes, and a reader
compares instead of interpreting: a link, a device, a path that leads out, a member too many or too
few are all simply bytes that should not be there.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import BinaryIO

from lockfiles.model import Digest

SCHEMA = 1
INDEX = "lockstock-bundle.json"
MANIFEST = "snapshot.json"
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_CHUNK = 1 << 20
_SMALL = 64 << 20  # bytes of list and manifest, which are read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a bundle: the number of its volume, from 1, its digest, and its size in bytes."""

    volume: int
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What a bundle holds: the manifest of a snapshot, which comes first, and files, by digest.

    `base` is the digest of the manifest of the snapshot that it builds on, if there is one.
    """

    base: str | None
    volumes: int
    manifest: Member
    files: tuple[Member, ...]

    def to_bytes(self, volume: int) -> bytes:
        """Give the list as it stands at the beginning of a volume."""
        content = {"schema": SCHEMA, "volume": volume, **asdict(self)}
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    def of_volume(self, volume: int) -> tuple[tuple[str, Member], ...]:
        """Give the members of one volume in their order, by their names."""
        files = [(member_name(m.sha256), m) for m in self.files if m.volume == volume]
        return ((MANIFEST, self.manifest), *files) if volume == 1 else tuple(files)


def member_name(sha256: str) -> str:
    """Give the name of a held file in a bundle: that of its place in the store."""
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


def parse_index(data: bytes) -> tuple[Index, int]:
    """Read a list and the number of its volume. Raises ValueError when it is not one that we write."""
    try:
        content = json.loads(data)
        index = Index(
            base=content["base"],
            volumes=content["volumes"],
            manifest=Member(**content["manifest"]),
            files=tuple(Member(**item) for item in content["files"]),
        )
        volume = content["volume"]
        if (
            index.to_bytes(volume) != data
            or not _is_sound(index)
            or volume not in range(1, index.volumes + 1)
        ):
            raise ValueError("its list is not one that this version writes")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its list is not one: {type(error).__name__} {error}") from error
    return index, volume


def _is_sound(index: Index) -> bool:
    """Say whether sizes and digests are such, and the files in order; may raise TypeError, ValueError."""
    if index.base is not None:
        Digest("sha256", index.base)
    for member in (index.manifest, *index.files):
        Digest("sha256", member.sha256)
        if type(member.size) is not int or not 0 <= member.size < 1 << 62:
            return False
    keys = [member.sha256 for member in index.files]
    numbers = [1, *(member.volume for member in index.files)]
    steps = {after - before for before, after in pairwise([*numbers, index.volumes])}
    in_order = steps <= {0, 1} and numbers[-1] == index.volumes and keys == sorted(set(keys))
    starts = type(index.volumes) is int and index.manifest.volume == 1 and index.manifest.size <= _SMALL
    return starts and in_order


def plan_volumes(
    base: str | None, manifest: Member, files: Iterable[tuple[str, int]], capacity: int | None
) -> Index:
    """Lay files, (sha256, size) in order, into volumes of at most `capacity` bytes.

    Raises ValueError when one alone is larger.
    """
    members = [Member(volume=1, sha256=sha256, size=size) for sha256, size in files]
    whole = Index(base=base, volumes=1, manifest=manifest, files=tuple(members))
    if capacity is None:
        return whole
    # the list grows with the digits of the volumes' numbers, of which there are not more than files
    room = capacity - _stored(len(whole.to_bytes(1)) + 8 * len(members) + 32) - len(_END)
    volume, left = 1, room - _stored(manifest.size)
    if left < 0:
        raise ValueError(f"the list of files alone does not fit into a volume of {capacity} bytes")
    placed = []
    for member in members:
        need = _stored(member.size)
        if need > left and left < room:
            volume, left = volume + 1, room
        if need > left:
            raise ValueError(f"a file of {member.size} bytes does not fit into a volume of {capacity} bytes")
        left -= need
        placed.append(Member(volume=volume, sha256=member.sha256, size=member.size))
    return Index(base=base, volumes=volume, manifest=manifest, files=tuple(placed))


def _stored(size: int) -> int:
    """Give the bytes that a member takes in a tar file."""
    return _BLOCK + size + _padding(size)


def _padding(size: int) -> int:
    return -size % _BLOCK


def header(name: str, size: int) -> bytes:
    """Give a member's tar header; GNU's form is one block whatever the size."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def write_small(file: BinaryIO, name: str, data: bytes) -> None:
    """Write a member that is in memory."""
    file.write(header(name, len(data)) + data + bytes(_padding(len(data))))


def write_stream(file: BinaryIO, name: str, member: Member, source: BinaryIO) -> None:
    """Write a member as it is read. Raises ValueError when it is not what its digest says."""
    file.write(header(name, member.size))
    for chunk in _hashed(source, member):
        file.write(chunk)
    file.write(bytes(_padding(member.size)))


def write_end(file: BinaryIO) -> None:
    """End a volume."""
    file.write(_END)


def read_index(file: BinaryIO) -> tuple[Index, int]:
    """Read the beginning of a volume. Raises ValueError."""
    start = file.read(_BLOCK)
    try:
        size = int(start[124:135], 8)
    except ValueError:
        raise ValueError("it does not begin as a bundle does") from None
    if size > _SMALL or start != header(INDEX, size):
        raise ValueError("it does not begin as a bundle does")
    data = file.read(size)
    _expect(file, bytes(_padding(size)))
    return parse_index(data)


def read_members(file: BinaryIO, index: Index, volume: int) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Give each member of a volume and its bytes, which must be taken to their end.

    Raises ValueError, at the latest with the last byte, when anything is not as the list says.
    """
    for name, member in index.of_volume(volume):
        _expect(file, header(name, member.size))
        yield member, _hashed(file, member)
        _expect(file, bytes(_padding(member.size)))
    _expect(file, _END)
    if file.read(1):
        raise ValueError("there is more after its end")


def _hashed(file: BinaryIO, member: Member) -> Iterator[bytes]:
    running, left = hashlib.sha256(), member.size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise ValueError(f"it ends in the middle of {member.sha256}")
        running.update(chunk)
        left -= len(chunk)
        yield chunk
    if running.hexdigest() != member.sha256:
        raise ValueError(f"the bytes of {member.sha256} have the digest {running.hexdigest()}")


def _expect(file: BinaryIO, wanted: bytes) -> None:
    found = file.read(len(wanted))
    if found != wanted:
        raise ValueError(
            "it ends too early" if len(found) < len(wanted) else "its members are not those of its list"
        )
