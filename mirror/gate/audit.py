"""Verifies a log against its signed checkpoints and a note that was kept elsewhere. Pure but for reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror.gate.errors import LogError
from mirror.gate.merkle import Tree
from mirror.gate.note import Checkpoint, ForeignKeyError, NoteError, Verifier

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a log that verifies is.

    `unsealed` records come after the last checkpoint and may have been changed; `torn` bytes of a
    last record that was never whole come after them. `after_anchor` is None without an anchor.
    """

    records: int
    checkpoints: int
    unsealed: int
    torn: int
    after_anchor: int | None
    note: str


def notes_path(log: Path) -> Path:
    """Say where the checkpoints of a log lie."""
    return log.with_suffix(".notes")


def read_lines(log: Path, take: Callable[[bytes], object]) -> int:
    """Hand each whole line to `take`; gives the number of bytes after the last of them."""
    with log.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return len(line)
            take(line[:-1])
    return 0


def parse_record(line: bytes, seq: int, where: str) -> Record:
    """Read the record that must be the `seq`-th. Raises LogError."""
    try:
        record = json.loads(line)
        found = record["seq"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LogError("this line is no record", where=f"{where}:{seq + 1}") from error
    if found != seq or isinstance(found, bool):
        raise LogError(
            f"record {seq} is missing, inserted or out of order: {found!r} stands here",
            where=f"{where}:{seq + 1}",
        )
    return dict(record)


def split_notes(text: str) -> Iterator[str]:
    """Give the notes of a file of checkpoints; one that was cut off at the end is left out."""
    lines = text.split("\n")
    for start in range(0, len(lines) - 5, 5):
        yield "\n".join(lines[start : start + 5]) + "\n"


class Auditor:
    """A state machine over records: knows the root at each size that some checkpoint speaks of."""

    def __init__(self, where: str, sizes: Iterable[int]) -> None:
        self._where = where
        self._tree = Tree()
        self._sizes = {*sizes}
        self.roots: dict[int, bytes] = {0: self._tree.root()}

    @property
    def size(self) -> int:
        """The number of records so far."""
        return self._tree.size

    @property
    def tree(self) -> Tree:
        """The tree over all records so far."""
        return self._tree

    def add(self, line: bytes) -> Record:
        """Take the next line. Raises LogError."""
        record = parse_record(line, self._tree.size, self._where)
        self._tree.append(line)
        if self._tree.size in self._sizes:
            self.roots[self._tree.size] = self._tree.root()
        return record


def open_note(note: str, verifier: Verifier, where: str) -> Checkpoint:
    """Give what a signed checkpoint says. Raises LogError."""
    try:
        checkpoint = Checkpoint.parse(verifier.open(note))
    except ForeignKeyError as error:
        raise LogError(
            f"a foreign key: {error}",
            where=where,
            hint="give the gate's own key with --key; the log's name is part of it",
        ) from error
    except NoteError as error:
        raise LogError(f"not a signed checkpoint: {error}", where=where) from error
    if checkpoint.origin != verifier.name:
        raise LogError(f"a checkpoint of another log, {checkpoint.origin}", where=where)
    return checkpoint


def verify(
    log: Path,
    verifier: Verifier,
    anchor: str | None = None,
    each: Callable[[Record], object] = lambda _: None,
) -> Verified:
    """Verify a log and hand each of its records to `each`. Raises LogError saying what is wrong, and where.

    A checkpoint covers all before it, so `each` may be handed records that turn out to be changed:
    use what it saw only when this returns.
    """
    try:
        stored = notes_path(log)
        notes = list(split_notes(stored.read_text(encoding="utf-8"))) if stored.exists() else []
        checkpoints = [open_note(note, verifier, f"{stored}, note {n}") for n, note in enumerate(notes, 1)]
        anchored = open_note(anchor, verifier, "the anchor") if anchor is not None else None
        auditor = Auditor(str(log), (c.size for c in (*checkpoints, anchored) if c))
        torn = read_lines(log, lambda line: each(auditor.add(line)))
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"cannot be read: {error}", where=str(log)) from error
    _compare(checkpoints, anchored, auditor, str(log))
    last = checkpoints[-1].size if checkpoints else 0
    return Verified(
        records=auditor.size,
        checkpoints=len(checkpoints),
        unsealed=auditor.size - last,
        torn=torn,
        after_anchor=auditor.size - anchored.size if anchored else None,
        note=notes[-1] if notes else "",
    )


def _compare(
    checkpoints: list[Checkpoint], anchored: Checkpoint | None, auditor: Auditor, where: str
) -> None:
    good = 0
    for checkpoint in checkpoints:
        if checkpoint.size < good:
            raise LogError(f"checkpoints go back from {good} to {checkpoint.size}", where=where)
        _check(checkpoint, auditor, where, f"the log verifies up to record {good}")
        good = checkpoint.size
    if anchored:
        _check(anchored, auditor, where, "against the anchor: edited or forked before it")
        if good < anchored.size:
            raise LogError(
                f"the anchor has {anchored.size} records and the last checkpoint only {good}: truncated",
                where=where,
            )


def _check(checkpoint: Checkpoint, auditor: Auditor, where: str, then: str) -> None:
    if checkpoint.size > auditor.size:
        raise LogError(
            f"truncated: a checkpoint has {checkpoint.size} records, the log {auditor.size}", where=where
        )
    if auditor.roots[checkpoint.size] != checkpoint.root:
        raise LogError(
            f"the first {checkpoint.size} records are not those that were signed",
            where=where,
            hint=f"edited, deleted, inserted, re-ordered or forked; {then}",
        )
