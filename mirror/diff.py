"""What two snapshots have apart, package by package; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mirror.snapshot import Snapshot, Stocked


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Change:
    """One package that differs: its versions and files, and the bytes of all its files together."""

    ecosystem: str
    name: str
    kind: Literal["added", "removed", "changed"]
    old_versions: tuple[str, ...]
    new_versions: tuple[str, ...]
    files_added: tuple[str, ...]
    files_removed: tuple[str, ...]
    old_size: int
    new_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What leads from one snapshot to another. Sizes are in bytes."""

    changes: tuple[Change, ...]
    old_size: int
    new_size: int
    fetched_size: int
    locks_added: tuple[str, ...]
    locks_removed: tuple[str, ...]
    locks_changed: tuple[str, ...]


def compare(old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots. `fetched_size` is that of the files which only the new one has."""
    before, after = _packages(old), _packages(new)
    held = {file.sha256 for file in old.artifacts}
    fetched = {file.sha256: file.size for file in new.artifacts if file.sha256 not in held}
    locks_before = {lock.name: lock.sha256 for lock in old.locks}
    locks_after = {lock.name: lock.sha256 for lock in new.locks}
    common = locks_before.keys() & locks_after.keys()
    return Difference(
        changes=tuple(
            _change(key, before.get(key, ()), after.get(key, ()))
            for key in sorted(before.keys() | after.keys())
            if _digests(before.get(key, ())) != _digests(after.get(key, ()))
        ),
        old_size=old.size,
        new_size=new.size,
        fetched_size=sum(fetched.values()),
        locks_added=tuple(sorted(locks_after.keys() - common)),
        locks_removed=tuple(sorted(locks_before.keys() - common)),
        locks_changed=tuple(sorted(name for name in common if locks_before[name] != locks_after[name])),
    )


def _packages(snapshot: Snapshot) -> dict[tuple[str, str], tuple[Stocked, ...]]:
    found: dict[tuple[str, str], tuple[Stocked, ...]] = {}
    for file in snapshot.artifacts:
        key = (file.ecosystem, file.name)
        found[key] = (*found.get(key, ()), file)
    return found


def _change(key: tuple[str, str], old: tuple[Stocked, ...], new: tuple[Stocked, ...]) -> Change:
    before, after = _digests(old), _digests(new)
    return Change(
        ecosystem=key[0],
        name=key[1],
        kind="changed" if old and new else "added" if new else "removed",
        old_versions=_versions(old),
        new_versions=_versions(new),
        files_added=tuple(file.filename for file in new if (file.filename, file.sha256) not in before),
        files_removed=tuple(file.filename for file in old if (file.filename, file.sha256) not in after),
        old_size=sum(file.size for file in old),
        new_size=sum(file.size for file in new),
    )


def _digests(files: Iterable[Stocked]) -> set[tuple[str, str]]:
    return {(file.filename, file.sha256) for file in files}


def _versions(files: Iterable[Stocked]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(file.version for file in files))
