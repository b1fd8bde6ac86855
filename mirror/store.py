"""The content-addressed store: verified bytes, each once, under their sha256.

Bytes are hashed while they stream into `incoming/` and renamed into place only when every digest
and the size match; so a file under `sha256/` is whole, whenever the writer was killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lockfiles.model import Digest
from mirror.errors import DigestMismatchError, DiskFullError, OversizedError, TruncatedError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """Files by sha256 below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"

    def path(self, sha256: str) -> Path:
        """Say where the file with this digest lies or would lie."""
        return self.root / "sha256" / sha256[:2] / sha256[2:]

    def holds(self, sha256: str) -> bool:
        """Say whether the file with this digest is held."""
        return self.path(sha256).is_file()

    def digests(self) -> Iterator[str]:
        """Give the sha256 of everything held, sorted."""
        for folder in sorted((self.root / "sha256").glob("??")):
            yield from (folder.name + file.name for file in sorted(folder.iterdir()))

    @contextmanager
    def writer(self, digests: Sequence[Digest], *, size: int | None, limit: int, label: str) -> Iterator[Incoming]:
        """Take in one file; it is kept when the block ends and everything matches.

        `size` is the exact size in bytes where known, `limit` the most that is taken, `label`
        names the file in errors. Raises DigestMismatchError, TruncatedError, OversizedError and
        DiskFullError; nothing is left behind then.
        """
        with disk_errors(self.root):
            self.incoming.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.incoming, delete=False) as file:
                try:
                    incoming = Incoming(file, digests, size if size is not None else limit, label)
                    yield incoming
                    incoming.check(size)
                    file.flush()
                    os.fsync(file.fileno())
                    self._keep(Path(file.name), incoming.sha256)
                finally:
                    Path(file.name).unlink(missing_ok=True)

    def _keep(self, file: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        file.rename(target)
        sync_folder(target.parent)

    def remove(self, sha256: str) -> int:
        """Drop one file and give its size in bytes."""
        path = self.path(sha256)
        size = path.stat().st_size
        path.unlink()
        return size

    def sweep(self) -> None:
        """Drop what a killed run left in `incoming/`; only the holder of the run lock may."""
        if self.incoming.is_dir():
            for leftover in self.incoming.iterdir():
                leftover.unlink(missing_ok=True)


class Incoming:
    """One file on its way in: counts and hashes what is written."""

    def __init__(self, file: BinaryIO | tempfile._TemporaryFileWrapper[bytes], digests: Sequence[Digest], limit: int, label: str) -> None:
        self._file = file
        self._limit = limit
        self._label = label
        self._digests = tuple(digests)
        self._hashes = {name: hashlib.new(name) for name in {"sha256", *(d.algorithm for d in digests)}}
        self.received = 0

    @property
    def sha256(self) -> str:
        """The sha256 of what was received so far."""
        return self._hashes["sha256"].hexdigest()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises OversizedError as soon as there are too many."""
        self.received += len(chunk)
        if self.received > self._limit:
            raise OversizedError(
                f"more than the {self._limit} bytes that were announced or allowed",
                where=self._label,
                hint="the upstream is broken or hostile; a larger file is allowed by max_file_size in lockstock.toml",
            )
        for running in self._hashes.values():
            running.update(chunk)
        self._file.write(chunk)

    def restart(self) -> None:
        """Forget what came so far: the upstream sends the file from its beginning again."""
        self._file.seek(0)
        self._file.truncate()
        self.__init__(self._file, self._digests, self._limit, self._label)  # type: ignore[misc]

    def check(self, size: int | None) -> None:
        """Compare with what was promised. Raises TruncatedError or DigestMismatchError."""
        if size is not None and self.received != size:
            raise TruncatedError(
                f"{self.received} of {size} bytes came", where=self._label, hint="run the refresh again"
            )
        for digest in self._digests:
            found = self._hashes[digest.algorithm].hexdigest()
            if found != digest.value:
                raise DigestMismatchError(
                    f"{digest.algorithm} is {found}, but the lock says {digest.value}",
                    where=self._label,
                    hint="the upstream serves other bytes than were locked: do not install them; "
                    "ask who runs the upstream, or lock again if the change is known",
                )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or quota below `path` into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            "no space is left on the disk", where=str(path), hint="free some space or move `path` in lockstock.toml"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader or a crash sees all of it or nothing."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).rename(path)
            finally:
                Path(file.name).unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
