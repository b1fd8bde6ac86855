"""Which packages of a lock a target needs, for chosen extras and groups.

Locks whose markers say everything are filtered; those with roots are walked along their edges,
as uv, poetry and pdm do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from functools import lru_cache

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.utils import canonicalize_name

from lockfiles.errors import LockError, MissingHashError, NoMatchingArtifactError
from lockfiles.model import Dependency, IndexSource, Key, Lock, Package, PathSource
from lockfiles.specs import parse_specifier
from lockfiles.target import Target

_Step = tuple[Key, str | None]
"""A package on the way, and the extra of it that is asked for, if any."""


def required(
    lock: Lock, target: Target, extras: Iterable[str] = (), groups: Iterable[str] | None = None
) -> tuple[Package, ...]:
    """Give the packages that `target` installs, in the order of the lock.

    `groups` None means those that the lock's own tool installs when it is not told otherwise; the
    project's own dependencies are always meant. Raises LockError for an extra or group that the
    lock does not have, for a conflict or an ambiguity, and NoMatchingArtifactError where the lock
    is not meant for the target.
    """
    wanted = frozenset(_known(lock, "extra", extras, lock.extras))
    asked = lock.default_groups if groups is None else groups
    chosen = frozenset(lock.own_groups).union(_known(lock, "group", asked, lock.groups))
    _check_target(lock, target)
    needed: set[int] = set()
    for environment in target.environments:
        found = [p for p in _required(lock, environment, wanted, chosen) if not _does_without(p, target)]
        _check_usable(lock, target, found)
        needed.update(map(id, found))
    result: dict[Key, Package] = {}
    for package in lock.packages:
        if id(package) in needed:
            result.setdefault(package.key, package)
    return tuple(result.values())


def holds(
    marker: Marker | None,
    environment: Mapping[str, str],
    extras: Set[str] = frozenset(),
    groups: Set[str] = frozenset(),
) -> bool:
    """Say whether a marker holds. Raises LockError for a comparison that has no meaning."""
    if marker is None:
        return True
    sets: dict[str, str | Set[str]] = {"extra": "", "extras": extras, "dependency_groups": groups}
    try:
        return marker.evaluate({**environment, **sets}, context="lock_file")
    except (UndefinedComparison, UndefinedEnvironmentName, ValueError) as error:
        raise LockError(f"the marker {str(marker)!r} has no meaning: {error}") from error


def activation(kind: str, package: str, name: str) -> str:
    """Give the name by which the markers of uv.lock know an active `extra` or `group` of a package."""
    return f"{kind}-{len(package)}-{package}-{name}"


def project_activation(package: str) -> str:
    """Give the name by which the markers of uv.lock know that a project itself is installed."""
    return f"project-{len(package)}-{package}"


def _known(lock: Lock, kind: str, names: Iterable[str], offered: Collection[str]) -> Iterator[str]:
    by_name = {canonicalize_name(name): name for name in offered}
    for name in names:
        if canonicalize_name(name) not in by_name:
            raise LockError(
                f"there is no {kind} {name!r}",
                where=lock.filename,
                hint=f"it has {', '.join(sorted(offered))}" if offered else f"it has no {kind}s",
            )
        yield by_name[canonicalize_name(name)]


def mismatch(lock: Lock, target: Target) -> str | None:
    """Say why a lock as a whole is not meant for a target; None where it is. Raises LockError."""
    if not _python_fits(lock.requires_python, target):
        return f"the lock is for Python {lock.requires_python}, not for {target}"
    if lock.environments and not any(
        holds(marker, environment) for marker in lock.environments for environment in target.environments
    ):
        return f"the lock is not for {target}: {' or '.join(map(str, lock.environments))}"
    return None


def _check_target(lock: Lock, target: Target) -> None:
    if reason := mismatch(lock, target):
        hint = "lock for this target too, or take it out of [targets]"
        raise NoMatchingArtifactError(reason, where=lock.filename, hint=hint)


@lru_cache(maxsize=4096)
def _python_fits(requires_python: str | None, target: Target) -> bool:
    specifier = parse_specifier(requires_python or "")
    return any(
        specifier.contains(environment["python_full_version"], prereleases=True)
        for environment in target.environments
    )


def _check_usable(lock: Lock, target: Target, packages: Iterable[Package]) -> None:
    versions: dict[str, Package] = {}
    for package in packages:
        other = package if lock.side_by_side else versions.setdefault(package.name, package)
        if (other.version, other.source) != (package.version, package.source):
            raise LockError(
                f"both {other.label} and {package.label} would be installed for {target}",
                where=lock.filename,
                hint="extras or groups that exclude each other may be chosen, or the lock is damaged",
            )
        _check_pinned(lock, target, package)
        if not package.platforms.fit(*target.node_platform):
            raise NoMatchingArtifactError(
                f"{package.label} is for {package.platforms}, not for {target}", where=lock.filename
            )
        if not _python_fits(package.requires_python, target):
            raise NoMatchingArtifactError(
                f"{package.label} is for Python {package.requires_python}, not for {target}",
                where=lock.filename,
            )


def _check_pinned(lock: Lock, target: Target, package: Package) -> None:
    """Refuse what names neither files nor digests, as pipenv writes what its own machine does not need."""
    if isinstance(package.source, IndexSource) and not (
        package.artifacts or (package.version and package.digests)
    ):
        raise MissingHashError(
            f"{package.label} is needed for {target}, but the lock has no version and hash of it",
            where=lock.filename,
            hint="lock on a machine like the target",
        )


def _does_without(package: Package, target: Target) -> bool:
    return package.optional and not package.platforms.fit(*target.node_platform)


def _required(
    lock: Lock, environment: Mapping[str, str], extras: Set[str], groups: Set[str]
) -> Iterator[Package]:
    if lock.roots is None:
        return (p for p in lock.packages if holds(p.marker, environment, extras, groups))
    return _Walk(lock, environment, extras, groups).packages()


class _Walk:
    """One way through a lock's edges, for one environment."""

    def __init__(
        self, lock: Lock, environment: Mapping[str, str], extras: Set[str], groups: Set[str]
    ) -> None:
        self._lock = lock
        self._environment = environment
        self._extras = extras
        self._groups = groups
        self._packages = {package.key: package for package in reversed(lock.packages)}
        self._roots = [self._packages[key] for key in lock.roots or ()]
        self._active = set(self._activations())

    def packages(self) -> Iterator[Package]:
        """Give what is reached and is itself installed.

        Where extras exclude each other, edges may depend on what other edges activate: a first
        walk finds that out.
        """
        if self._lock.conflicts:
            self._reach(learn=True)
            self._check_conflicts()
        reached = dict.fromkeys(key for key, _ in self._reach(learn=False))
        for package in map(self._packages.__getitem__, reached):
            if not (isinstance(package.source, PathSource) and package.source.virtual):
                yield package

    def _activations(self) -> Iterator[str]:
        for root in self._roots:
            yield project_activation(root.name)
            yield from (activation("extra", root.name, extra) for extra in self._extras & root.extras.keys())
            yield from (activation("group", root.name, group) for group in self._groups & root.groups.keys())

    def _reach(self, *, learn: bool) -> Collection[_Step]:
        """Walk breadth first; edges that leave a choice wait until all others have been followed."""
        seen: dict[_Step, None] = {}
        open_edges: list[Dependency] = []
        edges = deque(self._start(seen))
        while edges or open_edges:
            edge = edges.popleft() if edges else open_edges.pop(0)
            gained = (
                {activation("extra", edge.keys[0][0], extra) for extra in edge.extras} if learn else set()
            )
            if not holds(edge.marker, self._environment, self._active | gained if gained else self._active):
                continue
            reached = [key for key in edge.keys if (key, None) in seen]
            if len(edge.keys) > 1 and not reached and edges:
                open_edges.append(edge)
                continue
            self._active |= gained
            key = (reached or [key for key in edge.keys if self._python_fits(key)] or edge.keys)[0]
            for step in ((key, None), *((key, extra) for extra in edge.extras)):
                if step not in seen:
                    seen[step] = None
                    edges.extend(self._edges(step))
        return seen

    def _python_fits(self, key: Key) -> bool:
        package = self._packages.get(key)
        specifier = parse_specifier(package.requires_python or "") if package else None
        return specifier is None or specifier.contains(
            self._environment["python_full_version"], prereleases=True
        )

    def _edges(self, step: _Step) -> Iterable[Dependency]:
        key, extra = step
        if key not in self._packages:
            raise LockError(
                f"{key[0]} is needed, but it is not in the lock", where=self._lock.filename, hint="lock again"
            )
        package = self._packages[key]
        return package.dependencies if extra is None else package.extras.get(extra, ())

    def _start(self, seen: dict[_Step, None]) -> Iterator[Dependency]:
        """Give the edges of the roots with the chosen extras and groups."""
        for root in self._roots:
            for extra in (None, *sorted(self._extras & root.extras.keys())):
                seen[root.key, extra] = None
                yield from self._edges((root.key, extra))
            for group in sorted(self._groups & root.groups.keys()):
                yield from root.groups[group]

    def _check_conflicts(self) -> None:
        for conflict in self._lock.conflicts:
            both = sorted(conflict & self._active)
            if len(both) > 1:
                raise LockError(
                    f"{' and '.join(map(_described, both[:2]))} exclude each other",
                    where=self._lock.filename,
                    hint="choose one of them, or name one lock for each",
                )


def _described(active: str) -> str:
    kind, length, rest = active.split("-", 2)
    package, name = rest[: int(length)], rest[int(length) + 1 :]
    return f"{kind} {name!r} of {package}" if name else f"{kind} {package}"
