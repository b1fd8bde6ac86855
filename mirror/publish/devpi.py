"""Snapshots in devpi: one index per snapshot, and a stable index that shows one of them.

An index is filled in one transaction of devpi's storage, by hard links to the store, while a server may
run on it; clients see it when the stable index, in a second transaction, gets it as its only base. What
a writer that was killed between the two has made is found, and used or replaced, by the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockfiles.model import Ecosystem
from mirror.errors import RegistryError, StoreError
from mirror.publish import devpi_state
from mirror.publish.devpi_stage import fill, has_file
from mirror.publish.devpi_state import CLOSED, STABLE, USER
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store, sync_file_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What publishing did. `index` is the snapshot's own index; `changed` whether clients see a change."""

    index: str
    files: int
    changed: bool


def publish(
    folder: Path,
    name: str,
    snapshot: Snapshot,
    store: Store,
    in_house: tuple[str, ...] = (),
) -> Published:
    """Show the Python packages of the snapshot `name`, and only these, in the stable index.

    `folder` is the registry's, MIRROR/devpi; it is made where it is missing. `in_house` are indexes of
    people, as USER/INDEX, that the stable index shows behind the snapshot's. The caller holds the mirror:
    there is one writer at a time. Publishing what is published does nothing. Raises RegistryError, and
    DiskFullError; clients see the previous snapshot then.
    """
    devpi_state.init(folder)
    index = index_of(name)
    files = snapshot.of_ecosystem(Ecosystem.PYPI)
    state = devpi_state.remembered(folder)
    if state and (state.published, state.in_house) == (index, in_house):
        return Published(index=index, files=len(files), changed=False)
    _check(files, store)
    with devpi_state.writing(folder) as xom:
        complete = _is_complete(xom, index, files)
        if not complete:
            with xom.keyfs.write_transaction():  # one, for clients may read the index that is mended
                _delete(xom, index)
                fill(xom.model.get_user(USER).create_stage(index, bases=(), **CLOSED), files, store)
                sync_file_system(folder)  # for the database will say that the links are there
        changed = _promote(xom, index, in_house) or not complete
    return Published(index=index, files=len(files), changed=changed)


def prune(folder: Path, keep: Collection[str]) -> tuple[str, ...]:
    """Remove the indexes of all snapshots but those named and the published one; give the removed.

    A client that read the stable index before a promotion still fetches from the snapshot's index
    before it, so keep that one, too. Raises RegistryError.
    """
    devpi_state.init(folder)
    kept = {index_of(name) for name in keep}
    state = devpi_state.remembered(folder)
    if state and not _stale(state, kept):
        return ()
    with devpi_state.writing(folder) as xom:
        removed = _stale(devpi_state.current(xom), kept)
        for index in removed:
            with xom.keyfs.write_transaction():
                _delete(xom, index)
    return removed


def index_of(name: str) -> str:
    """Give the index of a snapshot."""
    return f"s-{name}"


def _stale(state: devpi_state.State, kept: Collection[str]) -> tuple[str, ...]:
    return tuple(index for index in state.indexes if index not in kept and index != state.published)


def _check(files: Iterable[Stocked], store: Store) -> None:
    """Refuse what an index cannot hold or the store does not. Raises RegistryError, StoreError."""
    seen: dict[str, Stocked] = {}
    for file in files:
        if seen.setdefault(file.filename, file).sha256 != file.sha256:
            raise RegistryError(
                "the locks name two different files of this name, and an index serves one",
                where=file.filename,
                hint="lock the same file everywhere, or stock these locks in two mirrors",
            )
        if not store.holds(file.sha256):
            raise StoreError(
                "the store does not hold this file", where=file.filename, hint="run `mirror refresh`"
            )


def _is_complete(xom: Any, index: str, files: Iterable[Stocked]) -> bool:
    """Say whether the index exists with all its files; its database entries are there or not as a whole."""
    with xom.keyfs.read_transaction():
        stage = xom.model.getstage(USER, index)
        return stage is not None and all(has_file(stage, file) for file in files)


def _promote(xom: Any, index: str, in_house: tuple[str, ...]) -> bool:
    """Make the stable index show these alone, at once for every reader; say if it did not before."""
    state = devpi_state.current(xom)
    if (state.published, state.in_house) == (index, in_house):
        return False
    with xom.keyfs.write_transaction():
        for place in in_house:
            _check_in_house(xom.model.getstage(place), place)
        xom.model.getstage(USER, STABLE).modify(bases=(f"{USER}/{index}", *in_house))
    return True


def _check_in_house(stage: Any, place: str) -> None:
    """Refuse what is no index, or one that fetches from elsewhere. Raises RegistryError."""
    if stage is None or stage.ixconfig["type"] != "stage":
        raise RegistryError(
            "devpi has no such index that people upload to",
            where=place,
            hint="make it, or take it out of `in_house` under [mirror] in lockstock.toml",
        )


def _delete(xom: Any, index: str) -> None:
    """Take an index away, within the caller's transaction."""
    stage = xom.model.getstage(USER, index)
    if stage is not None:
        stage.delete()
