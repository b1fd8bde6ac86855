"""Where things lie below the mirror's own folder, and the lock that lets one run in at a time."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mirror.errors import BusyError, StoreError
from mirror.snapshot import Snapshots
from mirror.store import Store, disk_errors

_PATIENCE = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one mirror."""

    root: Path

    @property
    def store(self) -> Store:
        """The verified bytes."""
        return Store(self.root / "store")

    @property
    def snapshots(self) -> Snapshots:
        """The manifests, and the link to the one that is served."""
        return Snapshots(self.root / "snapshots")

    @property
    def build_locks(self) -> Path:
        """Resolved build requirements."""
        return self.root / "build-locks"

    @property
    def located(self) -> Path:
        """What indexes said; may be deleted at any time."""
        return self.root / "cache" / "answers"

    @property
    def git(self) -> Path:
        """Bare clones of the repositories that locks, and packages, come from."""
        return self.root / "git"

    @property
    def tree(self) -> Path:
        """The static trees, and the link to the one that is served."""
        return self.root / "tree"

    @property
    def devpi(self) -> Path:
        """The state of devpi-server."""
        return self.root / "devpi"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the mirror for one writer; the kernel lets go when it is killed. Raises BusyError."""
        with disk_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                file = (self.root / "run.lock").open("a")
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                raise StoreError(f"cannot be written: {error.strerror}", where=str(self.root)) from error
        with file:
            if not _locked(file):
                raise BusyError(
                    "another run holds this mirror",
                    where=str(self.root),
                    hint="wait until it ends; nothing was changed",
                )
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Drop what killed runs left half-written; only who holds the mirror may."""
        self.store.sweep()
        for leftover in self.snapshots.root.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _locked(file: IO[str]) -> bool:
    """Lock a file; what a run that was killed had begun ends a moment after it, and holds it so long."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True
