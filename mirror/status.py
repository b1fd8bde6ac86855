"""What a mirror holds and how it fares, for people, programs and monitoring."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mirror.errors import StoreError
from mirror.history import pinned
from mirror.layout import Layout
from mirror.runs import Run, last_run
from mirror.snapshot import Snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """One snapshot in numbers. `written` is in seconds since 1970, `size` in bytes."""

    name: str
    written: float
    locks: tuple[str, ...]
    stale: tuple[str, ...]
    packages: int
    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of a mirror; snapshots are in order, the oldest first. Sizes are in bytes."""

    current: str | None
    pinned: tuple[str, ...]
    snapshots: tuple[Stock, ...]
    last_run: Run | None
    disk_free: int
    disk_size: int

    @property
    def served(self) -> Stock | None:
        """The snapshot that clients see."""
        return next((stock for stock in self.snapshots if stock.name == self.current), None)


def read_status(layout: Layout) -> Status:
    """Read the state, while others may write. Raises StoreError when a manifest is damaged."""
    shelf = layout.snapshots
    disk = shutil.disk_usage(next(path for path in (layout.root, *layout.root.parents) if path.exists()))
    return Status(
        current=shelf.current_name(),
        pinned=tuple(sorted(pinned(shelf))),
        snapshots=tuple(_stocks(shelf)),
        last_run=last_run(layout),
        disk_free=disk.free,
        disk_size=disk.total,
    )


def _stocks(shelf: Snapshots) -> Iterator[Stock]:
    """Count the snapshots; one that is pruned meanwhile is none any more."""
    for name in shelf.names():
        try:
            yield _stock(shelf.root, name)
        except (StoreError, FileNotFoundError):
            if (shelf.root / f"{name}.json").exists():
                raise


@lru_cache(maxsize=512)
def _stock(root: Path, name: str) -> Stock:
    """Count a snapshot; it never changes under its name."""
    snapshot = Snapshots(root).load(name)
    return Stock(
        name=name,
        written=(root / f"{name}.json").stat().st_mtime,
        locks=tuple(lock.name for lock in snapshot.locks if ":" not in lock.name),
        stale=snapshot.stale,
        packages=len({(file.ecosystem, file.name, file.version) for file in snapshot.artifacts}),
        files=len(snapshot.artifacts),
        size=snapshot.size,
    )
