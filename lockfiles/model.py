"""The data that every reader of lock-files produces and everything else consumes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from packaging.markers import Marker

from lockfiles.platforms import ANYWHERE, Platforms
from lockfiles.urls import check_filename

_STRENGTH = {"md5": 0, "sha1": 0, "sha224": 1, "sha256": 2, "sha384": 3, "sha512": 4}
_HEX_LENGTH = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_IS_HEX = re.compile("[0-9a-f]+").fullmatch


class Ecosystem(StrEnum):
    """A world of packages with an index and a client of its own; values are purl types."""

    PYPI = "pypi"
    NPM = "npm"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest of a file's bytes: the algorithm's hashlib name and lower-case hex digits."""

    algorithm: str
    value: str

    def __post_init__(self) -> None:
        """Refuse what cannot be a digest. Raises ValueError."""
        length = _HEX_LENGTH.get(self.algorithm)
        if length is None:
            raise ValueError(f"unknown hash algorithm {self.algorithm!r}")
        if len(self.value) != length or not _IS_HEX(self.value):
            raise ValueError(f"a {self.algorithm} digest has {length} hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:0f1e…` (or `sha256=0f1e…`, as URL fragments write it). Raises ValueError."""
        algorithm, separator, value = text.strip().replace("=", ":", 1).partition(":")
        if not separator:
            raise ValueError("a digest is written ALGORITHM:HEX")
        return cls(algorithm.lower(), value.lower())

    @classmethod
    def parse_sri(cls, text: str) -> Digest:
        """Read the base64 form of W3C Subresource Integrity, `sha512-…`. Raises ValueError."""
        algorithm, _, encoded = text.strip().partition("-")
        try:
            return cls(algorithm, base64.b64decode(encoded, validate=True).hex())
        except binascii.Error as error:
            raise ValueError("not a base64 digest") from error

    @property
    def strength(self) -> int:
        """Order of strength; 2 (sha256) and more is enough to accept bytes by."""
        return _STRENGTH[self.algorithm]

    @property
    def is_strong(self) -> bool:
        """Whether bytes may be accepted by this digest alone: sha256 or stronger."""
        return self.strength >= _STRENGTH["sha256"]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


def strongest(digests: Iterable[Digest]) -> Digest | None:
    """Give the strongest digest that bytes may be accepted by, or None."""
    return max((d for d in digests if d.is_strong), key=lambda d: (d.strength, d.value), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One file of a package: a wheel, an sdist, a tarball.

    `digests` must all match. `url` is None where the lock leaves it to the index; `size` is in
    bytes where known. `yanked` is the reason, or True where none was given (PEP 691), `upload_time` a
    moment in PEP 700's form. Raises ValueError where `filename` is more than the name of a file.
    """

    filename: str
    digests: tuple[Digest, ...] = ()
    url: str | None = None
    size: int | None = None
    requires_python: str | None = None
    yanked: bool | str = False
    upload_time: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that would lead out of a folder."""
        check_filename(self.filename)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSource:
    """From a package index; `url` None means whichever index the user's own client asks."""

    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """From one URL, which the lock names."""

    url: str
    subdirectory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """From a git repository at a commit."""

    url: str
    commit: str
    subdirectory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """From the user's own checkout; `path` is relative to the lock-file.

    What is `virtual` is not installed itself: it stands for its dependencies.
    """

    path: str
    editable: bool = False
    virtual: bool = False
    subdirectory: str | None = None


Source = IndexSource | UrlSource | GitSource | PathSource


Key = tuple[str, str | None, Source]
"""What tells the packages of one lock apart: name, version and source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """An edge from one package of a lock to another, with the extras it asks for.

    Where the lock leaves open which of several versions is meant, `keys` has them all, the best
    first: it is whichever another edge leads to, or else the first.
    """

    keys: tuple[Key, ...]
    extras: tuple[str, ...] = ()
    marker: Marker | None = None


Dependencies = Mapping[str, tuple[Dependency, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One locked version of one package.

    Where the lock names files they are `artifacts`. Where it only lists the digests that are
    allowed (requirements.txt, Pipfile.lock) they are `digests`, any one of which may match, and
    the index is asked for the files. `line` is the line of the lock-file, where its format has one.

    A `marker` may ask for `extras` and `dependency_groups` too, as pylock.toml's do (PEP 751).
    `dependencies`, those of each extra and of each group are edges for locks that have roots.

    `platforms` are those that the package is made for; where it is `optional`, others do without it.
    """

    name: str
    ecosystem: Ecosystem = Ecosystem.PYPI
    version: str | None = None
    marker: Marker | None = None
    requires_python: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    digests: tuple[Digest, ...] = ()
    source: Source = field(default_factory=IndexSource)
    line: int | None = None
    dependencies: tuple[Dependency, ...] = ()
    extras: Dependencies = field(default_factory=dict, hash=False)
    groups: Dependencies = field(default_factory=dict, hash=False)
    platforms: Platforms = ANYWHERE
    optional: bool = False

    @property
    def key(self) -> Key:
        """What edges point to it by."""
        return self.name, self.version, self.source

    @property
    def label(self) -> str:
        """Name and version as the ecosystem's own client writes them."""
        separator = "@" if self.ecosystem is Ecosystem.NPM else "=="
        return f"{self.name}{separator}{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What a lock-file says, whichever its format.

    Without `roots` each package's marker alone decides whether it is installed. With them it is
    installed where a way of edges leads to it from a root. `environments` are markers of which at
    least one must hold. `own_groups` stand for the project's own dependencies and are always chosen.
    `conflicts` are sets of extras and groups, in the way of `lockfiles.closure.activation`, of which
    at most one may be chosen. `side_by_side` says that several versions of a package may be installed
    together, as node_modules can hold them.
    """

    format: str
    packages: tuple[Package, ...]
    filename: str = ""
    requires_python: str | None = None
    environments: tuple[Marker, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    default_groups: tuple[str, ...] = ()
    own_groups: tuple[str, ...] = ()
    roots: tuple[Key, ...] | None = None
    conflicts: tuple[frozenset[str], ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    side_by_side: bool = False
