"""Keeps the newest snapshots, the pinned ones, and what they reach; frees the rest."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.errors import StoreError
from mirror.history import pinned
from mirror.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was freed, or would be: names of snapshots, number of files, bytes."""

    snapshots: tuple[str, ...] = ()
    artifacts: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """The snapshots that are not kept, and the files, by sha256, that none of the kept reaches."""

    snapshots: tuple[str, ...]
    artifacts: tuple[str, ...]
    size: int

    @property
    def summary(self) -> Pruned:
        """Say it in numbers."""
        return Pruned(snapshots=self.snapshots, artifacts=len(self.artifacts), size=self.size)


def prune(layout: Layout, keep: int) -> Pruned:
    """Drop the outdated snapshots with what only they reach; where there are none, do nothing.

    Nothing is freed either while a manifest that is kept cannot be read: who knows what it reaches.
    """
    try:
        return free(layout, surplus(layout, keep)) if _outdated(layout, keep) else Pruned()
    except StoreError:
        return Pruned()


def surplus(layout: Layout, keep: int) -> Surplus:
    """Say what is neither of the newest `keep` snapshots nor of the current or a pinned one."""
    shelf, store = layout.snapshots, layout.store
    outdated = _outdated(layout, keep)
    kept = (shelf.load(name) for name in shelf.names() if name not in outdated)
    reached = {artifact.sha256 for snapshot in kept for artifact in snapshot.artifacts}
    unreached = tuple(sha256 for sha256 in store.digests() if sha256 not in reached)
    size = sum(store.path(sha256).stat().st_size for sha256 in unreached)
    return Surplus(snapshots=outdated, artifacts=unreached, size=size)


def free(layout: Layout, surplus: Surplus) -> Pruned:
    """Remove it. Manifests go first: a killed run leaves files too many, never too few."""
    for name in surplus.snapshots:
        layout.snapshots.drop(name)
    for sha256 in surplus.artifacts:
        layout.store.remove(sha256)
    if surplus.artifacts:
        layout.store.forget()
    return surplus.summary


def _outdated(layout: Layout, keep: int) -> tuple[str, ...]:
    shelf = layout.snapshots
    names = shelf.names()
    kept = {*names[-keep:], shelf.current_name(), *pinned(shelf)}
    return tuple(name for name in names if name not in kept)
