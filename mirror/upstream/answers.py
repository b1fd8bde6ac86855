"""What indexes said before of the files behind a lock's digests, remembered for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from lockfiles.model import Artifact, Digest, Package
from mirror.config import UpstreamSpec
from mirror.store import disk_errors
from mirror.upstream.settings import is_pinned, without_secrets

_KEY = 32  # digits
_FIELDS = tuple(field.name for field in fields(Artifact))
_SPARED = 1 << 20  # bytes; a file that is not larger stays as it is


class LocatedFiles:
    """What indexes said before, per package, its locked digests, and the indexes it is pinned to.

    The digests make an answer final: no network is needed for it again, unless a place is left.
    Each is a line of one file, which is appended to: to make a file for each takes seven times as
    long. The last line of a package counts, and one that was cut off is no answer.
    """

    def __init__(self, file: Path, upstreams: Iterable[UpstreamSpec] = ()) -> None:
        self._file = file
        self._upstreams = tuple(upstreams)
        self._used = set[bytes]()

    def get(self, package: Package) -> tuple[Artifact, ...] | None:
        """Give the files found for this package before."""
        key = self._key(package)
        try:
            items = json.loads(self._answers[key])
            files = tuple(
                Artifact(**{**i, "digests": tuple(Digest(**d) for d in i["digests"])}) for i in items
            )
        except (ValueError, TypeError, KeyError):
            return None
        self._used.add(key)
        return files

    def put(self, package: Package, files: Sequence[Artifact]) -> None:
        """Keep an answer, without credentials. One that holds for a time, as signed URLs do, is not kept."""
        if all(file.digests and file.url and not urlsplit(file.url).query for file in files):
            self._note(package, [_remembered(file) for file in files])

    def forget(self, package: Package) -> bool:
        """Drop an answer whose places have been left; say whether there was one."""
        there = self.get(package) is not None
        if there:
            self._note(package, None)
        return there

    def compact(self) -> None:
        """Write the file anew if it is large and less than half of it was used since this was made.

        The caller holds the mirror, and has asked for all that its locks need. What another process
        appends meanwhile may be lost; it is asked for again. Raises DiskFullError.
        """
        size = self._file.stat().st_size if self._file.exists() else 0
        if size <= _SPARED:
            return
        content = b"".join(b"\n" + key + self._answers[key] for key in sorted(self._used))
        if 2 * len(content) < size:
            with disk_errors(self._file.parent):
                fresh = self._file.with_suffix(".new")  # there is one at most, if a run is killed here
                fresh.write_bytes(content)
                fresh.rename(self._file)

    @cached_property
    def _answers(self) -> dict[bytes, bytes]:
        try:
            lines = self._file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        return {line[:_KEY]: line[_KEY:] for line in lines}

    def _note(self, package: Package, answer: object) -> None:
        key, value = self._key(package), json.dumps(answer).encode()
        self._answers[key] = value
        (self._used.discard if answer is None else self._used.add)(key)
        with disk_errors(self._file.parent):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(b"\n" + key + value)  # which ends one that was cut off, too

    def _key(self, package: Package) -> bytes:
        locked = sorted(map(str, locked_digests(package)))
        pins = sorted(without_secrets(s.index) for s in self._upstreams if is_pinned(package.name, (s,)))
        parts = [package.ecosystem, package.name, str(package.version), *locked, *pins]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_KEY].encode()


def _remembered(file: Artifact) -> dict[str, object]:
    """Give a file as it is written down; `asdict`, which copies deeply, takes ten times as long."""
    digests = [{"algorithm": digest.algorithm, "value": digest.value} for digest in file.digests]
    plain = {name: getattr(file, name) for name in _FIELDS}
    return {**plain, "digests": digests, "url": without_secrets(file.url or "")}


def locked_digests(package: Package) -> frozenset[Digest]:
    """Give the digests that the lock allows, of the package and of each of its files."""
    named = (digest for artifact in package.artifacts for digest in artifact.digests)
    return frozenset((*package.digests, *named))
