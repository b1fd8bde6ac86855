"""The content-addressed store: verified bytes, each once, under their sha256.

Bytes stream into `incoming/`, are hashed there and renamed into place only when every digest and
the size match; so a file under `sha256/` is whole, whenever the writer was killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lockfiles.model import Digest, strongest
from mirror.errors import DigestMismatchError, DiskFullError, OversizedError, StoreError, TruncatedError

_NOTED = ("sha384", "sha512")  # strong, and not what files are held by
_TEMPORARY = ".tmp"
_BUFFER = 1 << 19  # bytes: of a file that comes in small pieces, each write would cost more than its copy
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ELOOP)


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

    def find(self, digests: Iterable[Digest]) -> str | None:
        """Give the sha256 of the held file that has these digests, or None."""
        best = strongest(digests)
        if best is None:
            return None
        if best.algorithm == "sha256":
            return best.value if self.holds(best.value) else None
        alias = self._alias(best)
        sha256 = alias.readlink().name if alias.is_symlink() else None
        return sha256 if sha256 and self.holds(sha256) else None

    def matches(self, sha256: str, digests: Iterable[Digest]) -> bool:
        """Say whether the held file has all of these digests, which are computed anew."""
        for digest in digests:
            with self.path(sha256).open("rb") as file:
                if hashlib.file_digest(file, digest.algorithm).hexdigest() != digest.value:
                    return False
        return True

    @contextmanager
    def receive(self, expected: Expected) -> Iterator[Incoming]:
        """Take in one file; it is kept only if the block calls `keep` on what this yields.

        Raises DiskFullError; nothing is left behind when the block ends otherwise.
        """
        with disk_errors(self.root):
            self.incoming.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.incoming, buffering=_BUFFER, delete=False) as file:
                try:
                    yield Incoming(file, expected)
                finally:
                    Path(file.name).unlink(missing_ok=True)

    def keep(self, incoming: Incoming) -> str:
        """Check a whole file, rename it into place and give its sha256; `settle` makes that last.

        Raises DigestMismatchError, TruncatedError and DiskFullError.
        """
        with disk_errors(self.root):
            incoming.check()
            incoming.sync()
            target = self.path(incoming.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.path.chmod(0o444)
            incoming.path.rename(target)
            for digest in incoming.found():
                if digest.algorithm in _NOTED:
                    self._remember(digest, incoming.sha256)
            return incoming.sha256

    def settle(self) -> None:
        """Make all that was kept survive a power cut, before anything names it."""
        if self.root.is_dir():
            sync_file_system(self.root)

    def _alias(self, digest: Digest) -> Path:
        return self.root / digest.algorithm / digest.value[:2] / digest.value[2:]

    def _remember(self, digest: Digest, sha256: str) -> None:
        """Note which file has this digest: locks that know only sha512 find it again."""
        alias = self._alias(digest)
        alias.parent.mkdir(parents=True, exist_ok=True)
        alias.unlink(missing_ok=True)
        alias.symlink_to(sha256)

    def remove(self, sha256: str) -> int:
        """Drop one file and give its size in bytes."""
        path = self.path(sha256)
        size = path.stat().st_size
        path.unlink()
        return size

    def forget(self) -> None:
        """Drop what is noted of files that are held no longer."""
        for algorithm in _NOTED:
            for alias in (self.root / algorithm).glob("??/*"):
                if not self.holds(alias.readlink().name):
                    alias.unlink()

    def sweep(self) -> None:
        """Drop what a killed run left in `incoming/`; only the holder of the run lock may."""
        if self.incoming.is_dir():
            for leftover in self.incoming.iterdir():
                leftover.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a file must be: all of `digests`, one of `any_of` if there are any, and its size.

    `size` is the exact number of bytes where known, `limit` the most that is taken where not;
    `label` names the file in errors. `allow_weak` accepts it by digests that are not strong, as the
    user may allow for single packages; what is `made_here` has nothing to be compared with.
    """

    label: str
    digests: tuple[Digest, ...] = ()
    any_of: tuple[Digest, ...] = ()
    size: int | None = None
    limit: int = 4 << 30
    allow_weak: bool = False
    made_here: bool = False


class Incoming:
    """One file on its way in: counts what is written, and hashes it when it is whole."""

    def __init__(self, file: IO[bytes], expected: Expected) -> None:
        self._file = file
        self.path = Path(file.name)
        self.expected = expected
        self.restart()

    def restart(self) -> None:
        """Forget what came so far: the upstream sends the file from its beginning again."""
        self._file.seek(0)
        self._file.truncate()
        self._found: dict[str, Digest] = {}
        self.received = 0

    @property
    def sha256(self) -> str:
        """The sha256 of what was received so far."""
        return self._digests()["sha256"].value

    def found(self) -> set[Digest]:
        """Give the digests of what was received so far."""
        return set(self._digests().values())

    def _digests(self) -> dict[str, Digest]:
        """Read the file back, once: hashed while they come, bytes would hold up those of other files."""
        if not self._found:
            self._file.flush()
            named = (*self.expected.digests, *self.expected.any_of)
            for name in {"sha256", *(digest.algorithm for digest in named)}:
                with self.path.open("rb") as file:
                    self._found[name] = Digest(name, hashlib.file_digest(file, name).hexdigest())
        return self._found

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises OversizedError as soon as there are too many."""
        self.received += len(chunk)
        limit = self.expected.limit if self.expected.size is None else self.expected.size
        if self.received > limit:
            raise OversizedError(
                f"the upstream sends more than the {limit} bytes that were announced or are allowed",
                where=self.expected.label,
                hint="it is broken or hostile; `max_file_size` in lockstock.toml allows larger files",
            )
        self._found = {}
        self._file.write(chunk)

    def sync(self) -> None:
        """Bring the bytes to the disk itself."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def check(self) -> None:
        """Compare with what was promised. Raises TruncatedError or DigestMismatchError."""
        expected = self.expected
        if expected.size is not None and self.received != expected.size:
            raise TruncatedError(
                f"{self.received} of {expected.size} bytes came",
                where=expected.label,
                hint="run the refresh again",
            )
        found = self.found()
        for digest in expected.digests:
            if digest not in found:
                raise self._mismatch(str(digest))
        named = (*expected.digests, *expected.any_of)
        enough = any(digest.is_strong for digest in named) or (expected.allow_weak and named)
        if not enough and not expected.made_here:
            raise DigestMismatchError("nothing strong enough to check it by is known", where=expected.label)
        if expected.any_of and not found & set(expected.any_of):
            raise self._mismatch(f"one of {len(expected.any_of)} others")

    def _mismatch(self, wanted: str) -> DigestMismatchError:
        return DigestMismatchError(
            f"its digest is sha256:{self.sha256}, but the lock allows {wanted}",
            where=self.expected.label,
            hint="the upstream serves other bytes than were locked: do not install them; "
            "ask who runs the upstream, or lock again if the change is known",
        )


@contextmanager
def disk_errors(path: Path, room: str = "free some space or move `path` in lockstock.toml") -> Iterator[None]:
    """Turn a full disk or quota below `path` into DiskFullError, and a closed or broken one into StoreError.

    `room` says how to get more.
    """
    try:
        yield
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(
            f"cannot be used: {error.strerror}",
            where=_place(error, path),
            hint="look at its owner and permissions; another user may have made it",
        ) from error
    except OSError as error:
        if error.errno in _BROKEN:
            raise StoreError(
                f"cannot be used: {error.strerror}",
                where=_place(error, path),
                hint="look at the disk and how it is mounted, or move `path` in lockstock.toml",
            ) from error
        if error.errno not in _FULL:
            raise
        raise DiskFullError("no space is left on the disk", where=str(path), hint=room) from error


def _place(error: OSError, path: Path) -> str:
    """Name what an error is about; of a file that is called by chance, the folder tells more."""
    named = Path(error.filename or path)
    return str(named.parent if named.suffix == _TEMPORARY else named)


def write_atomically(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a small file so that a reader or a crash sees all of it or nothing.

    What need not be `lasting` is only remembered: after a power cut it may be gone, or not what it was.
    """
    _write(path, data, lasting=lasting)
    if lasting:
        _sync(path.parent)


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write small files, by name, as `write_atomically` does; the folder is synchronized after the last."""
    for name, data in files.items():
        _write(folder / name, data, lasting=True)
    _sync(folder)


def _write(path: Path, data: bytes, *, lasting: bool) -> None:
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".", suffix=_TEMPORARY, delete=False
        ) as file:
            try:
                file.write(data)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).rename(path)
            finally:
                Path(file.name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    with disk_errors(folder):
        sync_folder(folder)


def output_path(path: Path) -> Path:
    """Give where a file that a person names is to lie: at the end of links, never in a device's place.

    Raises StoreError.
    """
    found = path.resolve()
    if found.exists() and not found.is_file():
        raise StoreError("cannot be written: it is no plain file", where=str(path), hint="name a file")
    return found


def sync_file_system(path: Path) -> None:
    """Bring all that was written on the file system of this folder to the disk.

    One call takes less than one for each of many files and folders.
    """
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "the file system cannot be synchronized", str(path))
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
