"""Carries snapshots from one mirror to another: export of what the other lacks, import of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from packaging.utils import canonicalize_name

from lockfiles.formats.node import check_npm_name
from lockfiles.model import Digest, Ecosystem
from lockfiles.moments import moment
from lockfiles.urls import check_filename
from mirror import bundle
from mirror.bundle import Index, Member
from mirror.console import plural
from mirror.errors import BundleError, DamageError
from mirror.history import Publish
from mirror.layout import Layout
from mirror.prune import prune
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Expected, Store, disk_errors, output_path, sync_folder

Advance = Callable[[int], None]
_AGAIN = "copy it or export it again; nothing was imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written; `size` is that of the volumes, in bytes."""

    snapshot: str
    base: str | None
    files: int
    volumes: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came in; `changed` says whether clients see a change, sizes are in bytes."""

    snapshot: str
    changed: bool
    files: int
    size: int


def export(
    layout: Layout, name: str, since: str | None, to: Path, capacity: int | None, advance: Advance
) -> Exported:
    """Write what `name` has and `since` has not; equal snapshots give equal bytes.

    `to` is a file, or a folder where the bundle is named after the snapshots; `capacity` is the
    most bytes of a volume. Raises BundleError, DamageError, StoreError, DiskFullError.
    """
    with layout.exclusive():
        snapshot, base = layout.snapshots.load(name), layout.snapshots.load(since) if since else None
        index = _plan(snapshot, base, capacity)
        paths = _paths(to, f"lockstock-{name}" + (f"-since-{since}" if since else ""), index.volumes)
        for volume, path in enumerate(paths, 1):
            with _fresh(path) as file:
                _write(file, index, volume, snapshot, layout.store, advance)
    return Exported(
        snapshot=name,
        base=since,
        files=len(index.files),
        volumes=tuple(map(str, paths)),
        size=sum(path.stat().st_size for path in paths),
    )


def _plan(snapshot: Snapshot, base: Snapshot | None, capacity: int | None) -> Index:
    there = {file.sha256 for file in base.artifacts} if base else set()
    lacking = {file.sha256: file.size for file in snapshot.artifacts if file.sha256 not in there}
    manifest = Member(volume=1, sha256=snapshot.digest, size=len(snapshot.to_bytes()))
    try:
        return bundle.plan_volumes(base.digest if base else None, manifest, sorted(lacking.items()), capacity)
    except ValueError as error:
        raise BundleError(str(error), hint="give a larger --volume-size") from error


def _paths(to: Path, stem: str, volumes: int) -> tuple[Path, ...]:
    """Name the volumes; their numbers have one width, so that a shell's pattern gives their order."""
    path = to / f"{stem}.tar" if to.is_dir() else to
    if volumes == 1:
        return (path,)
    width = max(3, len(str(volumes)))
    stem = path.name.removesuffix(".tar")
    return tuple(path.with_name(f"{stem}.{number:0{width}}.tar") for number in range(1, volumes + 1))


@contextmanager
def _fresh(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name when it is whole. Raises BundleError, StoreError, DiskFullError."""
    path = output_path(path)
    part = path.with_name(f".{path.name}.part")
    with disk_errors(path.parent, "free some space, or give another --to"):
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            sync_folder(path.parent)
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise BundleError(f"cannot be written: {error.strerror}", where=str(path)) from error
        finally:
            part.unlink(missing_ok=True)


def _write(
    file: BinaryIO, index: Index, volume: int, snapshot: Snapshot, store: Store, advance: Advance
) -> None:
    names = {artifact.sha256: artifact.filename for artifact in snapshot.artifacts}
    bundle.write_small(file, bundle.INDEX, index.to_bytes(volume))
    if volume == 1:
        bundle.write_small(file, bundle.MANIFEST, snapshot.to_bytes())
    for member in index.files:
        if member.volume != volume:
            continue
        try:
            with store.path(member.sha256).open("rb") as source:
                bundle.write_stream(file, bundle.member_name(member.sha256), member, source)
        except (FileNotFoundError, ValueError) as error:
            reason = "is not there" if isinstance(error, FileNotFoundError) else "is damaged"
            raise DamageError(f"cannot be exported: it {reason}", where=names[member.sha256]) from error
        advance(member.size)
    bundle.write_end(file)


def import_(layout: Layout, paths: Sequence[Path], publish: Publish, keep: int, advance: Advance) -> Imported:
    """Check a bundle, all of it; then take in what is lacking, and publish its snapshot.

    `paths` are its volumes in their order. A snapshot that is held already, and is not the newest,
    is not served again by this. Then all but the newest `keep` snapshots are pruned, as a refresh
    does. Doing it again does nothing; a killed run is ended by the next. Raises BundleError with
    the mirror as it was.
    """
    with layout.exclusive():
        index, snapshot = _check(paths, advance)
        _refuse_gaps(index, snapshot, layout.store)
        added = [size for path in paths for size in _take(path, layout.store, advance)]
        layout.store.settle()
        shelf, current = layout.snapshots, layout.snapshots.current_name()
        held = [name for name in shelf.names()[:-1] if name.endswith(f"-{snapshot.digest[:12]}")]
        name = held[-1] if held else shelf.add(snapshot)
        if name == shelf.names()[-1]:
            publish(name, snapshot)
            if name != current:
                shelf.switch(name)
        changed = shelf.current_name() != current
        prune(layout, keep)
    return Imported(snapshot=name, changed=changed, files=len(added), size=sum(added))


def _check(paths: Sequence[Path], advance: Advance) -> tuple[Index, Snapshot]:
    """Read every volume to its end. Raises BundleError unless they are one whole bundle."""
    first: Index | None = None
    content = b""
    for number, path in enumerate(paths, 1):
        with _volume(path) as (file, index, volume):
            if first not in (None, index):
                raise ValueError("it belongs to another bundle than the volume before it")
            if volume != number:
                raise ValueError(
                    f"it is volume {volume} of {index.volumes}, and here volume {number} should be"
                )
            first = index
            for member, chunks in bundle.read_members(file, index, volume):
                if member == index.manifest:
                    content = b"".join(chunks)
                else:
                    _count(chunks, advance)
    if first is None or len(paths) != first.volumes:
        raise BundleError(
            f"only {len(paths)} of its {first.volumes if first else 0} volumes were given",
            where=str(paths[-1]),
            hint="give all, in order",
        )
    try:
        return first, _snapshot(content, first)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"its snapshot is not one: {error}", where=str(paths[0]), hint=_AGAIN) from error


@contextmanager
def _volume(path: Path) -> Iterator[tuple[BinaryIO, Index, int]]:
    """Open a volume; what is wrong with it is said with its name. Raises BundleError."""
    try:
        with path.open("rb") as file:
            yield file, *bundle.read_index(file)
    except ValueError as error:
        raise BundleError(str(error), where=str(path), hint=_AGAIN) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=str(path), hint=_AGAIN) from error


def _count(chunks: Iterator[bytes], advance: Advance) -> None:
    for chunk in chunks:
        advance(len(chunk))


def _snapshot(content: bytes, index: Index) -> Snapshot:
    """Read the manifest, which may be hostile. Raises ValueError, TypeError or AttributeError."""
    snapshot = Snapshot.from_bytes(content)
    if snapshot.to_bytes() != content:
        raise ValueError("this version would write it otherwise")
    files = {file.sha256: file for file in snapshot.artifacts}
    for file in snapshot.artifacts:
        _check_file(file)
    _check_locks(snapshot, files.keys())
    ordered = (snapshot.locks, snapshot.artifacts, snapshot.selections, snapshot.inputs, snapshot.stale)
    if Snapshot.of(*ordered) != snapshot:
        raise ValueError("it is not in order")
    for member in index.files:
        if member.sha256 not in files or files[member.sha256].size != member.size:
            raise ValueError(f"it says nothing of {member.sha256} with {member.size} bytes")
    return snapshot


def _check_file(file: Stocked) -> None:
    """Refuse what could not have come from a lock-file: names become names of files and folders."""
    Digest("sha256", file.sha256)
    check_filename(file.filename)
    if Ecosystem(file.ecosystem) is Ecosystem.NPM:
        check_npm_name(file.name)
    elif canonicalize_name(file.name, validate=True) != file.name:
        raise ValueError(f"{file.name!r} is not a normalized name")
    if type(file.size) is not int or file.size < 0:
        raise ValueError(f"{file.filename!r} has no size")
    if moment(file.upload_time) != file.upload_time or not isinstance(file.yanked, bool | str):
        raise ValueError(f"{file.filename!r} is described with what an index does not say")
    reason = "" if isinstance(file.yanked, bool) else file.yanked
    for text in (file.version, file.url, file.requires_python or "", file.tree or "", reason):
        if not text.isprintable():
            raise ValueError(f"{file.filename!r} is described with control characters")


def _check_locks(snapshot: Snapshot, files: Collection[str]) -> None:
    """Refuse locks and selections that later commands could not show, or not follow."""
    told = [text for lock in snapshot.locks for text in (lock.name, lock.path, lock.format, lock.sha256)]
    told += [text for chosen in snapshot.selections for text in (chosen.lock, chosen.target, *chosen.left)]
    if not all(text.isprintable() for text in (*told, *snapshot.stale, snapshot.inputs)):
        raise ValueError("its locks are described with control characters")
    if any(sha256 not in files for chosen in snapshot.selections for sha256 in chosen.artifacts):
        raise ValueError("a selection names a file that is not listed")


def _refuse_gaps(index: Index, snapshot: Snapshot, store: Store) -> None:
    """See that what the bundle leaves out is held here. Raises BundleError."""
    carried = {member.sha256 for member in index.files}
    lost = [f.filename for f in snapshot.artifacts if f.sha256 not in carried and not store.holds(f.sha256)]
    if lost:
        base = f"the snapshot with the digest {index.base[:12]}" if index.base else "another snapshot"
        raise BundleError(
            f"it builds on {base}, of which this mirror lacks {plural(len(lost), 'file')}, as {lost[0]}",
            hint="export it again with --since a snapshot that this mirror holds, or without",
        )


def _take(path: Path, store: Store, advance: Advance) -> Iterator[int]:
    """Bring the files of one volume into the store, and give the sizes of those that are new."""
    with _volume(path) as (file, index, volume):
        for member, chunks in bundle.read_members(file, index, volume):
            if member == index.manifest or store.holds(member.sha256):
                _count(chunks, advance)
                continue
            expected = Expected(
                label=member.sha256, digests=(Digest("sha256", member.sha256),), size=member.size
            )
            with store.receive(expected) as incoming:
                for chunk in chunks:
                    incoming.write(chunk)
                    advance(len(chunk))
                store.keep(incoming)
            yield member.size
