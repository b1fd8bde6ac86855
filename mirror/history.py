"""Moves between snapshots: the names people give them, the pins that keep them, the way back."""

from __future__ import annotations

from collections.abc import Callable

from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.snapshot import Snapshot, Snapshots
from mirror.store import sync_folder, write_atomically

CURRENT = "current"
PREVIOUS = "previous"
_PIN = ".pinned"
Publish = Callable[[str, Snapshot], None]


def resolve(shelf: Snapshots, text: str) -> str:
    """Give the name of the snapshot that `text` means.

    That is `current`, `previous` (the newest one that is older than the current one), or the
    beginning of a name or of its digest, which two mirrors that hold the same have in common.
    Raises StoreError unless it is one snapshot.
    """
    names, current = shelf.names(), shelf.current_name()
    if text == CURRENT and current:
        return current
    if text == PREVIOUS and current in names[1:]:
        return names[names.index(current) - 1]
    digest = text.partition("-")[2] or text
    found = [name for name in names if name.startswith(text)]
    found = found or [name for name in names if digest and name.partition("-")[2].startswith(digest)]
    if len(found) == 1:
        return found[0]
    if not names:
        raise StoreError("nothing is stocked yet", where=str(shelf.root.parent), hint="run `mirror refresh`")
    if text == PREVIOUS:
        raise StoreError(
            "the served snapshot is the first", where=current or text, hint="`mirror snapshots` lists them"
        )
    reason = f"it may mean {', '.join(found)}" if found else "there is no such snapshot"
    raise StoreError(reason, where=text, hint="`mirror snapshots` lists them")


def pin(shelf: Snapshots, name: str) -> None:
    """Keep a snapshot from being pruned; a file beside it says so."""
    write_atomically(shelf.root / f"{name}{_PIN}", b"")


def unpin(shelf: Snapshots, name: str) -> None:
    """Let a snapshot be pruned when its time has come."""
    (shelf.root / f"{name}{_PIN}").unlink(missing_ok=True)
    sync_folder(shelf.root)


def pinned(shelf: Snapshots) -> frozenset[str]:
    """Give the names of the pinned snapshots."""
    return frozenset(path.name.removesuffix(_PIN) for path in shelf.root.glob(f"*{_PIN}"))


def rollback(layout: Layout, name: str, publish: Publish) -> bool:
    """Serve an older snapshot again, and say if that is a change; the next refresh goes forward.

    Safe to kill, as a refresh is: `current` moves when the registry has it. Raises BusyError, and
    StoreError where the store does not hold all of it any more.
    """
    with layout.exclusive():
        snapshot = layout.snapshots.load(name)
        lost = [file.filename for file in snapshot.artifacts if not layout.store.holds(file.sha256)]
        if lost:
            reason = f"the store lacks {len(lost)} of its files, as {lost[0]}"
            raise StoreError(reason, where=name, hint="`mirror verify --repair` fetches them again")
        publish(name, snapshot)
        changed = layout.snapshots.current_name() != name
        if changed:
            layout.snapshots.switch(name)
        return changed
