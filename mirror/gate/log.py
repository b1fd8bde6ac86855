"""Writes the log: one JSON record a line, and signed checkpoints of the tree over the lines.

A record is handed to the kernel before what it tells of happens, so the death of the process
loses none; a checkpoint is written after its records are on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mirror.gate.audit import Auditor, notes_path, open_note, read_lines, split_notes
from mirror.gate.errors import LogError
from mirror.gate.note import Checkpoint, Signer
from mirror.store import sync_folder

EVERY = 256
_DRIFT = 60.0
_SETTLED = 5.0
_LOOK = 0.05

Clock = Callable[[], float]


class Log:
    """An open log, of which this process is the only writer.

    `clock` is that of the wall, `steady` one that no one sets; where they disagree the log refuses.
    After any failure it takes no more records: whoever writes to it must stop.
    """

    def __init__(
        self,
        path: Path,
        signer: Signer,
        *,
        every: int = EVERY,
        clock: Clock = time.time,
        steady: Clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        on_checkpoint: Callable[[str], object] = lambda _: None,
        wait: float = 0,
    ) -> None:
        """Open or make it; what a killed writer left torn is cut off, and said. Raises LogError.

        Where another writes it, `wait` seconds are given to that one to end.
        """
        self.path = path
        self.failed = False
        self.note = ""
        self._signer = signer
        self._every = every
        self._clock, self._steady = clock, steady
        self._on_checkpoint = on_checkpoint
        self._sealed = 0
        self._last = 0.0
        self._file = self._lock(wait)
        try:
            torn = self._recover()
            self._offset = self._clock() - self._steady()
            if not self.note:
                self.checkpoint()  # from now on a log without checkpoints is one that was tampered with
            if torn or self._tree.size > self._sealed:
                unsealed = self._tree.size - self._sealed
                self.append({"event": "recovered", "torn_bytes": torn, "unsealed": unsealed})
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; `seq` and `time` are added. Raises LogError, and then always."""
        if self.failed:
            raise LogError("the log failed before and takes no more records", where=str(self.path))
        try:
            now = self._now()
            content = {**record, "seq": self._tree.size, "time": _timestamp(now)}
            line = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
            self._write(self._file, line + b"\n")
            self._tree.append(line)
            if self._tree.size - self._sealed >= self._every:
                self.checkpoint()
        except (OSError, LogError, TypeError, ValueError) as error:
            self.failed = True
            if isinstance(error, LogError):
                raise
            raise LogError(f"cannot be written: {error}", where=str(self.path)) from error

    def checkpoint(self) -> str:
        """Bring all to the disk, sign what is there, and give the note. Raises LogError."""
        if self._tree.size == self._sealed and self.note:
            return self.note
        note = self._signer.sign(str(Checkpoint(self._signer.name, self._tree.size, self._tree.root())))
        try:
            os.fsync(self._file)
            notes = os.open(
                notes_path(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
            )
            try:
                self._write(notes, note.encode())
                os.fsync(notes)
            finally:
                os.close(notes)
        except OSError as error:
            self.failed = True
            raise LogError(f"cannot be written: {error}", where=str(self.path)) from error
        self._sealed, self.note = self._tree.size, note
        self._on_checkpoint(note)
        return note

    def close(self) -> str:
        """Seal the log and let go of it; gives the last note, which is the one to keep elsewhere."""
        try:
            return self.checkpoint() if not self.failed else self.note
        finally:
            os.close(self._file)

    @property
    def size(self) -> int:
        """The number of records."""
        return self._tree.size

    def _lock(self, wait: float) -> int:
        """Open the file as its only writer; the kernel lets go of it when this process dies."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise LogError(f"cannot be written: {error.strerror}", where=str(self.path)) from error
        until = time.monotonic() + wait
        while not _locked(file):
            if time.monotonic() >= until:
                os.close(file)
                raise LogError("another process writes this log", where=str(self.path))
            time.sleep(_LOOK)
        return file

    def _recover(self) -> int:
        """Read what is there, check it against its last checkpoint, and cut off a torn end."""
        stored = notes_path(self.path)
        notes = self._cut_notes(stored) if stored.exists() else []
        checkpoint = open_note(notes[-1], self._signer.verifier, str(stored)) if notes else None
        auditor = Auditor(str(self.path), [checkpoint.size] if checkpoint else [])
        last: dict[str, Any] = {}
        torn = read_lines(self.path, lambda line: last.update(auditor.add(line)))
        sound = checkpoint and auditor.roots.get(checkpoint.size) == checkpoint.root
        if (auditor.size or checkpoint) and not sound:
            raise LogError(
                "the log is not what was signed, so nothing is added to it",
                where=str(self.path),
                hint="`mirror audit verify` says more; move it away to begin a new one",
            )
        if torn:
            os.ftruncate(self._file, os.fstat(self._file).st_size - torn)
        self._tree = auditor.tree
        self._sealed, self.note = (checkpoint.size, notes[-1]) if checkpoint else (0, "")
        self._last = _moment(last.get("time"))
        sync_folder(self.path.parent)
        return torn

    def _cut_notes(self, stored: Path) -> list[str]:
        text = stored.read_text(encoding="utf-8", errors="replace")
        notes = list(split_notes(text))
        whole = "".join(notes)
        if whole != text:
            os.truncate(stored, len(whole.encode()))
        return notes

    def _now(self) -> float:
        """Give the time, unless the clock went back or jumped. Raises LogError."""
        now = self._clock()
        drift = abs(now - self._steady() - self._offset)
        if drift > _DRIFT or now < self._last - _SETTLED:
            raise LogError(
                "the clock went wrong: it was set, or is behind the log's last record", where=str(self.path)
            )
        self._last = max(self._last, now)
        return self._last

    def _write(self, file: int, data: bytes) -> None:
        """Write all of it, or nothing that looks whole: a line counts by its newline."""
        while data:
            data = data[os.write(file, data) :]


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
