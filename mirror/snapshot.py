"""A snapshot: the immutable, sorted manifest of one refresh, and the switch between them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lockfiles.model import Ecosystem
from mirror.errors import StoreError
from mirror.store import sync_folder, write_atomically

_T = TypeVar("_T")
SCHEMA = 1
# Left out where they say nothing, so that manifests from before them keep their bytes.
_LATER = ("upload_time", "yanked")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LockRecord:
    """A lock that the snapshot serves. Build locks are named LOCK:build, the tools' one :tools."""

    name: str
    path: str
    format: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Stocked:
    """One file of one package. `url` says where it came from, without credentials; `size` is in bytes.

    `tree` is the hash of the git tree that an archive of a repository was made of. `yanked` (True, or
    the reason) and `upload_time` are what the index said when it was asked.
    """

    ecosystem: str
    name: str
    version: str
    filename: str
    sha256: str
    size: int
    url: str
    requires_python: str | None = None
    tree: str | None = None
    yanked: bool | str = False
    upload_time: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Selected:
    """The files, by sha256, that one target (in its text form) takes of one lock.

    `left` are the packages that lie in the user's own checkout, as NAME @ PATH.
    """

    lock: str
    target: str
    artifacts: tuple[str, ...]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one refresh stocked, for which locks and targets. Equal content, equal bytes.

    `inputs` is the digest of all that decided it: while that is the same, so is the stock. `stale`
    names the locks that could not be met and are served as they were before.
    """

    locks: tuple[LockRecord, ...]
    artifacts: tuple[Stocked, ...]
    selections: tuple[Selected, ...]
    inputs: str = ""
    stale: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        locks: Iterable[LockRecord],
        artifacts: Iterable[Stocked],
        selections: Iterable[Selected],
        inputs: str = "",
        stale: Iterable[str] = (),
    ) -> Snapshot:
        """Make a snapshot of parts in any order; each file is listed once, with all that any lock knows."""
        unique: dict[tuple[str, str, str], Stocked] = {}
        for a in artifacts:
            key = (a.ecosystem, a.filename, a.sha256)
            unique[key] = _joined(a, unique[key]) if key in unique else a
        ordered = sorted(
            unique.values(), key=lambda a: (a.ecosystem, a.name, a.version, a.filename, a.sha256)
        )
        return cls(
            inputs=inputs,
            stale=tuple(sorted(set(stale))),
            locks=tuple(sorted(set(locks))),
            artifacts=tuple(ordered),
            selections=tuple(sorted(set(selections))),
        )

    def to_bytes(self) -> bytes:
        """Give the manifest: JSON, sorted, without clock or host."""
        content = {"schema": SCHEMA, **_told(self)}
        text = json.dumps(content, default=_told, indent=1, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes | str) -> Snapshot:
        """Read a manifest, or its text. Raises ValueError when it is none or of another schema."""
        try:
            content = json.loads(data, object_hook=_part)
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
            return cls(
                inputs=content["inputs"],
                stale=tuple(content["stale"]),
                locks=_all(content["locks"], LockRecord),
                artifacts=_all(content["artifacts"], Stocked),
                selections=_all(content["selections"], Selected),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a snapshot: {error}") from error

    @property
    def digest(self) -> str:
        """The sha256 of the manifest."""
        return sha256(self.to_bytes()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(artifact.size for artifact in self.artifacts)

    def chosen(self, locks: Iterable[str], target: str) -> tuple[Stocked, ...]:
        """Give the files that `target` takes of these locks, sorted by name."""
        names = tuple(locks)
        wanted = {
            digest
            for selected in self.selections
            if selected.target == target and any(covers(name, selected.lock) for name in names)
            for digest in selected.artifacts
        }
        return tuple(a for a in self.artifacts if a.sha256 in wanted)

    def of_ecosystem(self, ecosystem: Ecosystem) -> tuple[Stocked, ...]:
        """Give the files that an index of the ecosystem can show, sorted by name.

        Archives of repositories have no name that an index knows.
        """
        return tuple(a for a in self.artifacts if a.ecosystem == ecosystem and a.tree is None)


def covers(wanted: str, lock: str) -> bool:
    """Say whether the lock is the wanted one, or one of those that its pattern stands for (`mono/…`)."""
    name, _, companion = wanted.partition(":")
    found, _, its_companion = lock.partition(":")
    return companion == its_companion and (found == name or found.startswith(f"{name}/"))


def _joined(file: Stocked, other: Stocked) -> Stocked:
    return replace(
        file,
        requires_python=file.requires_python or other.requires_python,
        yanked=file.yanked or other.yanked,
        upload_time=file.upload_time or other.upload_time,
    )


def _told(part: Any) -> dict[str, Any]:
    """Give what a manifest says of a part."""
    facts = ((field.name, getattr(part, field.name)) for field in fields(part))
    return {name: value for name, value in facts if value or name not in _LATER}


def _part(item: dict[str, Any]) -> Any:
    """Make a part as soon as it is read, for the dictionaries of all of them take twice the room."""
    if "filename" in item:
        return Stocked(**item)
    if "format" in item:
        return LockRecord(**item)
    if "target" in item:
        return _selected(item)
    return item


def _selected(item: dict[str, Any]) -> Selected:
    return Selected(
        lock=item["lock"],
        target=item["target"],
        artifacts=tuple(item["artifacts"]),
        left=tuple(item.get("left", ())),
    )


def _all(parts: Iterable[Any], kind: type[_T]) -> tuple[_T, ...]:
    found = tuple(parts)
    if not all(isinstance(part, kind) for part in found):
        raise TypeError(f"a part of it is no {kind.__name__}")
    return found


class Snapshots:
    """The snapshots of a mirror: `NNNN-DIGEST.json` files and the link `current`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.link = root / "current"

    def names(self) -> tuple[str, ...]:
        """Give all names, the oldest first."""
        return tuple(sorted((path.stem for path in self.root.glob("*-*.json")), key=_sequence))

    def load(self, name: str) -> Snapshot:
        """Read one snapshot. Raises StoreError when it is missing or damaged."""
        path = self.root / f"{name}.json"
        try:
            return Snapshot.from_bytes(path.read_text(encoding="utf-8"))  # its bytes are not held beside it
        except FileNotFoundError:
            raise StoreError(
                "there is no such snapshot", where=name, hint="`mirror snapshots` lists them"
            ) from None
        except ValueError as error:
            raise StoreError(
                str(error), where=str(path), hint="run `mirror refresh` to write a new one"
            ) from error

    def current_name(self) -> str | None:
        """Give the name of the snapshot that is served, or None before the first."""
        return self.link.readlink().name.removesuffix(".json") if self.link.is_symlink() else None

    def current(self) -> Snapshot | None:
        """Read the snapshot that is served, or None before the first."""
        name = self.current_name()
        return self.load(name) if name else None

    def readable(self) -> Snapshot | None:
        """Give the current snapshot, or None where it is damaged or of another schema: a new one is due."""
        try:
            return self.current()
        except StoreError:
            return None

    def add(self, snapshot: Snapshot) -> str:
        """Write a snapshot and give its name; one that is equal to the newest is that one."""
        names, data = self.names(), snapshot.to_bytes()
        short = sha256(data).hexdigest()[:12]
        if names and names[-1].endswith(f"-{short}"):
            name = names[-1]
        else:
            name = f"{_sequence(names[-1]) + 1 if names else 1:04}-{short}"
        path = self.root / f"{name}.json"
        if not path.exists() or path.read_bytes() != data:  # not there, or damaged
            write_atomically(path, data)
        return name

    def switch(self, name: str) -> None:
        """Make `name` the current snapshot, at once for every reader."""
        fresh = self.root / ".current.tmp"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"{name}.json")
        fresh.rename(self.link)
        sync_folder(self.root)

    def drop(self, name: str) -> None:
        """Remove a snapshot's manifest."""
        (self.root / f"{name}.json").unlink(missing_ok=True)


def _sequence(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdigit() else 0
