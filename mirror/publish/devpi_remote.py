"""A snapshot in a devpi-server elsewhere: one index per snapshot, filled by uploads.

As in the mirror's own devpi, clients know a stable index, and see a snapshot when that gets the
snapshot's index as its only base, in one request. What the snapshot before has in common with it the
server copies itself, so that only new files travel. An index takes uploads while it is filled, and is
closed when it was seen to hold the snapshot's files and no others; whoever was killed in between,
the next run looks what is there, and goes on. A note in the mirror's folder says what is there, and so
that nothing is to be done at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lockfiles.model import Ecosystem
from mirror.destinations import RemoteDevpiSpec
from mirror.errors import RegistryError
from mirror.layout import Layout
from mirror.publish.devpi import index_of
from mirror.publish.devpi_stage import versiondata
from mirror.publish.devpi_state import CLOSED
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store, write_atomically

if TYPE_CHECKING:
    from mirror.publish.devpi_http import Remote

NOTE = "remote-devpi.json"
_SNAPSHOT = re.compile(r"s-\d{4,}-[0-9a-f]{12}")
_NEW: dict[str, Any] = {"bases": [], **CLOSED}
_Held = dict[str, dict[str, str]]  # sha256 by project and file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What publishing did: files that were uploaded and their bytes, files copied there, indexes deleted."""

    files: int
    size: int
    copied: int
    deleted: int


def publish(
    layout: Layout,
    name: str,
    snapshot: Snapshot,
    spec: RemoteDevpiSpec,
    keep: Collection[str],
    begin: Callable[[int, int], None] | None = None,
) -> Sent | None:
    """Show the Python packages of the snapshot `name`, and only these; None where it was noted to be so.

    The caller holds the mirror. Indexes of snapshots are deleted but for those named in `keep`, the
    shown one and, until the next time, the one before. `begin` is told how many files are sent and how
    many bytes they have, before they are. Raises RegistryError: clients see the snapshot before then; run
    again, it goes on.
    """
    note = _noted(layout, spec)
    if note and note.snapshot == name:
        deleted = prune(layout, spec, keep)
        return Sent(files=0, size=0, copied=0, deleted=deleted) if deleted else None
    forget(layout)
    from mirror.publish.devpi_http import Remote  # its client takes long to import

    filling = _Filling(
        index=index_of(name),
        files=snapshot.of_ecosystem(Ecosystem.PYPI),
        store=layout.store,
    )
    with Remote(spec) as remote:
        sent = _bring(remote, filling, {index_of(kept) for kept in keep}, begin)
        indexes = _snapshots(remote.indexes())
    _write(layout, _Note(snapshot=name, spec=spec, indexes=indexes))
    return sent


def prune(layout: Layout, spec: RemoteDevpiSpec, keep: Collection[str]) -> int:
    """Delete there the indexes of all snapshots but those named and the shown one; give their number.

    Where the last time is noted to have left no other, or is not noted, nobody is asked: the next
    publishing prunes then. The caller holds the mirror. Raises RegistryError.
    """
    note = _noted(layout, spec)
    kept = {index_of(name) for name in (*keep, *([note.snapshot] if note else []))}
    if note is None or kept.issuperset(note.indexes):
        return 0
    from mirror.publish.devpi_http import Remote  # as above

    with Remote(spec) as remote:
        indexes = remote.indexes()
        deleted = _prune(remote, indexes.keys() - kept - {_shown(indexes, spec)})
        left = _snapshots(remote.indexes())
    _write(layout, replace(note, indexes=left))
    return deleted


def forget(layout: Layout) -> None:
    """Let the next publishing look what is there, and mend it."""
    (layout.root / NOTE).unlink(missing_ok=True)


def shown(spec: RemoteDevpiSpec) -> str | None:
    """Log in and give the name of the snapshot that clients see there. Raises RegistryError."""
    from mirror.publish.devpi_http import Remote

    with Remote(spec) as remote:
        index = _shown(remote.indexes(), spec)
    return index.removeprefix("s-") if index else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What was there when the last publishing or pruning ended."""

    snapshot: str
    spec: RemoteDevpiSpec
    indexes: tuple[str, ...]  # of snapshots


def _noted(layout: Layout, spec: RemoteDevpiSpec) -> _Note | None:
    """Give the note of the last time, if that ended, and at this place."""
    try:
        content = json.loads((layout.root / NOTE).read_bytes())
        note = _Note(
            snapshot=content["snapshot"],
            spec=RemoteDevpiSpec(**content["spec"]),
            indexes=tuple(content["indexes"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if note.spec == spec else None


def _write(layout: Layout, note: _Note) -> None:
    write_atomically(layout.root / NOTE, json.dumps(asdict(note), sort_keys=True).encode())


def _snapshots(indexes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(index for index in indexes if _SNAPSHOT.fullmatch(index)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filling:
    """An index and what is to be in it."""

    index: str
    files: tuple[Stocked, ...]
    store: Store

    @property
    def wanted(self) -> _Held:
        held: _Held = {}
        for file in self.files:
            held.setdefault(file.name, {})[file.filename] = file.sha256
        return held

    def missing(self, there: _Held) -> list[Stocked]:
        return [file for file in self.files if there.get(file.name, {}).get(file.filename) != file.sha256]


def _bring(
    remote: Remote, filling: _Filling, keep: Collection[str], begin: Callable[[int, int], None] | None
) -> Sent:
    indexes = remote.indexes()
    before = _shown(indexes, remote.spec)
    there = remote.files(filling.index) if filling.index in indexes else None
    uploads: list[Stocked] = []
    copied = 0
    if there != filling.wanted or indexes[filling.index].get("volatile"):
        _open(remote, filling.index, exists=there is not None)
        held = _without_strangers(remote, filling, there or {})
        copied = _copy(remote, filling, before, held) if before and before != filling.index else 0
        uploads = filling.missing(held)
        if begin:
            begin(len(uploads), sum(file.size for file in uploads))
        _upload(remote, filling, uploads)
        remote.modify(filling.index, CLOSED)
        _check(remote, filling)
    _promote(remote, filling.index, indexes)
    deleted = _prune(remote, indexes.keys() - keep - {filling.index, before})
    return Sent(files=len(uploads), size=sum(file.size for file in uploads), copied=copied, deleted=deleted)


def _prune(remote: Remote, indexes: Collection[str | None]) -> int:
    """Delete those of these indexes that are snapshots'; say how many."""
    stale = _snapshots(filter(None, indexes))
    for index in stale:
        remote.modify(index, {"volatile": True})  # devpi deletes no other
        remote.delete(index)
    return len(stale)


def _open(remote: Remote, index: str, *, exists: bool) -> None:
    """Let the user, and nobody else, change the files of the index, which is made where it is missing."""
    fillable = {"volatile": True, "acl_upload": [remote.spec.user]}
    if exists:
        remote.modify(index, fillable)
    else:
        remote.make(index, {**_NEW, **fillable})


def _without_strangers(remote: Remote, filling: _Filling, there: _Held) -> _Held:
    """Delete the projects that have other files than they should; give what remains."""
    wanted = filling.wanted
    strange = {name for name, held in there.items() if not held.items() <= wanted.get(name, {}).items()}
    for project in sorted(strange):
        remote.delete(filling.index, project)
    return {name: held for name, held in there.items() if name not in strange}


def _copy(remote: Remote, filling: _Filling, source: str, there: _Held) -> int:
    """Let the server copy what is missing and can be had as whole releases; add it to `there`."""
    wanted, missing = filling.wanted, {file.filename for file in filling.missing(there)}
    found = [
        (project, version, files)
        for project, held in sorted(remote.files(source).items())
        for version, files in _releases(project, held).items()
        if files.items() <= wanted.get(project, {}).items() and not missing.isdisjoint(files)
    ]
    remote.each(lambda release: remote.copy(source, filling.index, release[0], release[1]), found)
    for project, _, files in found:
        there.setdefault(project, {}).update(files)
    return sum(len(files) for _, _, files in found)


def _releases(project: str, held: Mapping[str, str]) -> _Held:
    releases: _Held = {}
    for filename, sha256 in held.items():
        releases.setdefault(_version(project, filename), {})[filename] = sha256
    return releases


def _version(project: str, filename: str) -> str:
    """Give the version as the file's name spells it, which is what devpi compares it with."""
    name = re.escape(project).replace(r"\-", "[-_.]+")
    ending = r"(?:-.+\.whl|\.tar\.[a-z0-9]+|\.tgz|\.zip)"
    found = re.fullmatch(f"{name}-(.+?){ending}", filename, re.IGNORECASE)
    return found[1] if found else ""


def _upload(remote: Remote, filling: _Filling, files: Iterable[Stocked]) -> None:
    """Send files, each with what devpi notes of its release."""
    releases: dict[tuple[str, str], list[Stocked]] = {}
    for file in filling.files:
        releases.setdefault((file.name, file.version), []).append(file)

    def one(file: Stocked) -> None:
        wheel = file.filename.endswith(".whl")
        fields = {
            "metadata_version": "2.1",
            **versiondata(releases[file.name, file.version], filling.store),
            "version": _version(file.name, file.filename),
            "filetype": "bdist_wheel" if wheel else "sdist",
            "pyversion": file.filename.split("-")[-3] if wheel else "source",
            "sha256_digest": file.sha256,
        }
        remote.upload(filling.index, filling.store.path(file.sha256), file.filename, fields)

    remote.each(one, files)


def _check(remote: Remote, filling: _Filling) -> None:
    """See that the index holds these files and no others, before anybody is shown it."""
    wanted = filling.wanted
    there = {project: held for project, held in remote.files(filling.index).items() if held}
    if there != wanted:
        odd = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        raise RegistryError(
            f"the remote devpi holds other files than were sent: {_few(odd)}",
            where=remote.spec.place,
            hint="each mirror needs a user of its own there; run it again",
        )


def _few(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:5])


def _promote(remote: Remote, index: str, indexes: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the stable index show this one alone, at once for every reader."""
    stable, bases = remote.spec.index, [f"{remote.spec.user}/{index}"]
    if stable not in indexes:
        remote.make(stable, {**_NEW, "bases": bases})
    elif list(indexes[stable].get("bases", ())) != bases:
        remote.modify(stable, {"bases": bases})


def _shown(indexes: Mapping[str, Mapping[str, Any]], spec: RemoteDevpiSpec) -> str | None:
    """Give the snapshot's index that the stable one shows."""
    for base in indexes.get(spec.index, {}).get("bases", ()):
        user, _, index = str(base).partition("/")
        if user == spec.user and index in indexes and _SNAPSHOT.fullmatch(index):
            return index
    return None
