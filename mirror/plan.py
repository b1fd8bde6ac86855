"""What a refresh has to do, as data and without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lockfiles.model import Artifact, Digest, Package
from lockfiles.select import Selection

Key = tuple[str, str, str, bool, tuple[Digest, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One file that a lock's selections take."""

    package: Package
    artifact: Artifact

    def __hash__(self) -> int:
        """Hash what tells files apart, and not all that their packages hold besides."""
        return hash(self.key)

    @property
    def label(self) -> str:
        """Name the file for messages."""
        return self.artifact.filename

    @property
    def key(self) -> Key:
        """What makes two of them the same file; where no digest is known of it, what a lock allows counts."""
        package, artifact = self.package, self.artifact
        digests = artifact.digests or tuple(sorted(package.digests))
        return package.ecosystem, package.name, artifact.filename, bool(artifact.digests), digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The files to fetch, the largest first, and those that are held with their sha256."""

    fetch: tuple[Wanted, ...]
    keep: tuple[tuple[Wanted, str], ...]

    @property
    def fetch_size(self) -> int:
        """Bytes to fetch, as far as the index told them."""
        return sum(wanted.artifact.size or 0 for wanted in self.fetch)


def make_plan(selections: Iterable[Selection], held: Callable[[Wanted], str | None]) -> Plan:
    """Plan over the union of the selections: each file once. `held` gives the sha256 of a held file."""
    unique = {
        w.key: w
        for s in selections
        for c in s.choices
        for w in [Wanted(package=c.package, artifact=c.artifact)]
    }
    found = [(wanted, held(wanted)) for _, wanted in sorted(unique.items())]
    missing = [wanted for wanted, sha256 in found if sha256 is None]
    return Plan(
        fetch=tuple(sorted(missing, key=lambda wanted: -(wanted.artifact.size or 0))),
        keep=tuple((wanted, sha256) for wanted, sha256 in found if sha256 is not None),
    )
