"""Reads every held byte again; what is damaged goes into quarantine, and may be fetched anew.

A file that is whole but that no snapshot names is no damage: a killed run left it, and the next one
uses it or prunes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lockfiles.model import Digest
from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.publish.links import PREFIX, place, published
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store, sync_folder

Advance = Callable[[int], None]
Begin = Callable[[int], Advance]
Named = Mapping[str, tuple[Stocked, ...]]
Repair = Callable[[Named], Mapping[str, str]]


class Kind(StrEnum):
    """What may be wrong with a mirror's files."""

    DAMAGED = "damaged"
    MISSING = "missing"
    FOREIGN = "foreign"
    MANIFEST = "manifest"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing that is wrong. `path` is below the mirror's folder, `name` what people call the file."""

    path: str
    kind: Kind
    reason: str
    name: str = ""
    sha256: str = ""
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was read and found. `size` is in bytes; `unnamed` files are whole, but in no snapshot."""

    files: int
    size: int
    unnamed: int
    findings: tuple[Finding, ...]

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are not repaired."""
        return tuple(finding for finding in self.findings if not finding.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One held file, read to its end; `fault` says why it is not what its name says, where it is not."""

    sha256: str
    size: int
    fault: str | None


def verify(layout: Layout, begin: Begin, repair: Repair | None = None) -> Verdict:
    """Check store, snapshots and what is published; move damage into MIRROR/quarantine.

    `begin` is told the bytes to read and gives what counts them. `repair` gets the missing files by
    sha256, with all that the snapshots say of each, and gives the reasons of those that stay
    missing. Raises BusyError, StoreError.
    """
    with layout.exclusive():
        snapshots, damage = _manifests(layout)
        damage += _foreign(layout)
        named = _named(snapshots)
        read = _read_all(layout.store, begin)
        damage += _set_aside(layout, [file for file in read if file.fault], named)
        missing = {sha256: files for sha256, files in named.items() if not layout.store.holds(sha256)}
        known = {finding.sha256 for finding in damage}
        damage += [_missing(layout, files[0]) for sha256, files in missing.items() if sha256 not in known]
        if repair and missing:
            failed = repair(missing)
            damage = [_repaired(found, failed) if found.sha256 in missing else found for found in damage]
        damage += _published(layout)
    return Verdict(
        files=len(read),
        size=sum(file.size for file in read),
        unnamed=sum(not file.fault and file.sha256 not in named for file in read),
        findings=tuple(sorted(damage)),
    )


def _manifests(layout: Layout) -> tuple[list[Snapshot], list[Finding]]:
    """Read the snapshots; set those aside whose bytes are not what their name says."""
    shelf, good, damage = layout.snapshots, dict[str, Snapshot](), list[Finding]()
    for name in shelf.names():
        path = shelf.root / f"{name}.json"
        try:
            good[name] = shelf.load(name)
            if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(name.partition("-")[2]):
                raise StoreError("its bytes are not those that its name says")
        except (StoreError, OSError) as error:
            good.pop(name, None)
            reason = error.reason if isinstance(error, StoreError) else f"cannot be read: {error.strerror}"
            damage.append(Finding(path=_below(layout, path), kind=Kind.MANIFEST, reason=reason, name=name))
    if shelf.link.is_symlink() and shelf.current_name() not in good:
        _fall_back(layout, tuple(good))
    for finding in damage:
        _quarantine(layout, finding)
    return list(good.values()), damage


def _fall_back(layout: Layout, names: tuple[str, ...]) -> None:
    """Make the newest whole snapshot the current one, before the damaged one goes."""
    if names:
        layout.snapshots.switch(names[-1])
    else:
        layout.snapshots.link.unlink()


def _named(snapshots: Iterable[Snapshot]) -> dict[str, tuple[Stocked, ...]]:
    """Give all that the snapshots say of each file, the newest first."""
    named: dict[str, dict[Stocked, None]] = {}
    for snapshot in reversed(list(snapshots)):
        for artifact in snapshot.artifacts:
            named.setdefault(artifact.sha256, {})[artifact] = None
    return {sha256: tuple(files) for sha256, files in named.items()}


def _foreign(layout: Layout) -> list[Finding]:
    """Set aside what the store would never write."""
    store = layout.store
    paths = (path for path in sorted(store.root.rglob("*")) if store.incoming not in (path, path.parent))
    damage = [
        Finding(path=_below(layout, path), kind=Kind.FOREIGN, reason="the store never wrote this")
        for path in paths
        if not _is_ours(path, path.relative_to(store.root).parts)
    ]
    for finding in damage:
        _quarantine(layout, finding)
    return damage


def _is_ours(path: Path, parts: tuple[str, ...]) -> bool:
    """Say whether it is a folder, a file or (under another digest than sha256) a link of the store's."""
    if path.is_symlink() or not path.is_dir():
        try:
            Digest(parts[0], "".join(parts[1:]))
        except ValueError:
            return False
        return len(parts) == 3 and (path.is_symlink() != (parts[0] == "sha256"))
    return len(parts) <= 2


def _read_all(store: Store, begin: Begin) -> list[_Read]:
    """Hash everything held, on all processors: hashing lets go of the interpreter's lock."""
    digests = list(store.digests())
    advance = begin(sum(store.path(sha256).stat().st_size for sha256 in digests))

    def one(sha256: str) -> _Read:
        read = _read(store.path(sha256), sha256)
        advance(read.size)
        return read

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, digests))


def _read(path: Path, sha256: str) -> _Read:
    size = path.stat().st_size
    try:
        found = file_sha256(path)
    except OSError as error:
        return _Read(sha256=sha256, size=size, fault=f"cannot be read: {error.strerror}")
    fault = None if found == sha256 else f"its {size} bytes have the digest sha256:{found}"
    return _Read(sha256=sha256, size=size, fault=fault)


def file_sha256(path: Path) -> str:
    """Give the sha256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_aside(layout: Layout, read: Iterable[_Read], named: Named) -> Iterator[Finding]:
    for file in read:
        finding = Finding(
            path=_below(layout, layout.store.path(file.sha256)),
            kind=Kind.DAMAGED,
            reason=file.fault or "",
            name=named[file.sha256][0].filename if file.sha256 in named else "",
            sha256=file.sha256,
        )
        _quarantine(layout, finding)
        yield finding


def _missing(layout: Layout, file: Stocked) -> Finding:
    path = _below(layout, layout.store.path(file.sha256))
    reason = "a snapshot names it, and the store does not hold it"
    return Finding(path=path, kind=Kind.MISSING, reason=reason, name=file.filename, sha256=file.sha256)


def _repaired(finding: Finding, failed: Mapping[str, str]) -> Finding:
    if finding.sha256 in failed:
        return replace(finding, reason=f"{finding.reason}; not repaired: {failed[finding.sha256]}")
    return replace(finding, repaired=True)


def _published(layout: Layout) -> Iterator[Finding]:
    """Compare what clients are given with the store, which is whole by now.

    A damaged file that was set aside is still published, as a hard link to the very same bytes.
    """
    held = {sha256[:PREFIX]: layout.store.path(sha256) for sha256 in layout.store.digests()}
    aside = dict(_aside(layout))
    for path, prefix in published(layout.root):
        damaged = aside.get(_identity(path))
        wanted = damaged[:PREFIX] if damaged else prefix
        source = held.get(wanted) if wanted else None
        if wanted is None or (source and source.samefile(path)):
            continue
        if not damaged and file_sha256(path).startswith(wanted):
            continue
        if source:
            place(source, path)
        yield Finding(
            path=_below(layout, path),
            kind=Kind.PUBLISHED,
            reason="its bytes are not those that clients are promised",
            name=path.name,
            repaired=source is not None,
        )


def _aside(layout: Layout) -> Iterator[tuple[tuple[int, int], str]]:
    """Give what makes the store's files in quarantine the same as others, and their names there."""
    store = _quarantined(layout, layout.store.root / "sha256")
    for path in store.glob("??/*"):
        yield _identity(path), path.parent.name + path.name


def _identity(path: Path) -> tuple[int, int]:
    facts = path.lstat()
    return facts.st_dev, facts.st_ino


def _quarantine(layout: Layout, finding: Finding) -> None:
    """Move what is damaged out of reach; it stays there for those who want to know why."""
    path = layout.root / finding.path
    target = _quarantined(layout, path)
    if os.path.lexists(path):  # or else it went with its folder
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        sync_folder(path.parent)


def _quarantined(layout: Layout, path: Path) -> Path:
    return layout.root / "quarantine" / path.relative_to(layout.root)


def _below(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()
