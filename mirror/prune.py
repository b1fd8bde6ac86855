"""Keeps the newest snapshots and what they reach; frees the rest."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was freed: names of snapshots, number of files, bytes."""

    snapshots: tuple[str, ...] = ()
    artifacts: int = 0
    size: int = 0


def prune(layout: Layout, keep: int) -> Pruned:
    """Drop all but the newest `keep` snapshots (and the current one), then what none of them reaches.

    Manifests go first: a run that is killed in between leaves files too many, never too few.
    """
    snapshots = layout.snapshots
    names = snapshots.names()
    kept = {*names[-keep:], snapshots.current_name()}
    dropped = tuple(name for name in names if name not in kept)
    if not dropped:
        return Pruned()
    reached = {a.sha256 for name in names if name in kept for a in snapshots.load(name).artifacts}
    for name in dropped:
        snapshots.drop(name)
    unreached = [sha256 for sha256 in layout.store.digests() if sha256 not in reached]
    size = sum(layout.store.remove(sha256) for sha256 in unreached)
    return Pruned(snapshots=dropped, artifacts=len(unreached), size=size)
