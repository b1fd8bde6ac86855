"""What one target installs of a lock: tag order, and sdists where no wheel fits or it is wished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from packaging.utils import canonicalize_name

from lockfiles.closure import holds, required
from lockfiles.errors import MissingHashError, NoMatchingArtifactError
from lockfiles.filenames import build_tag, is_sdist, is_wheel, wheel_tags
from lockfiles.model import Artifact, Ecosystem, IndexSource, Lock, Package, UrlSource
from lockfiles.target import Target

SdistUse = Literal["fallback", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdists:
    """When an sdist is taken: where no wheel fits, always, or never; also for single packages."""

    default: SdistUse = "fallback"
    packages: Mapping[str, SdistUse] = field(default_factory=dict)

    def use(self, package: Package, options: Mapping[str, tuple[str, ...]]) -> SdistUse:
        """Decide for a package: its own rule, that of the lock's pip options, or the default."""
        return self.packages.get(package.name) or _option(package.name, options) or self.default


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A package and the one file of it that a target takes."""

    package: Package
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Everything that one target installs of one lock, by name.

    `sources` are the packages without a file to choose: from git, or from the user's checkout.
    """

    target: Target
    choices: tuple[Choice, ...]
    sources: tuple[Package, ...] = ()


def applies(package: Package, target: Target) -> bool:
    """Say whether the package's marker holds on the target, no extra and no group being chosen."""
    return any(holds(package.marker, environment) for environment in target.environments)


def select(
    lock: Lock,
    target: Target,
    extras: Iterable[str] = (),
    groups: Iterable[str] | None = None,
    sdists: Sdists = Sdists(),
    allow_sha1: Collection[str] = (),
) -> Selection:
    """Choose what `target` installs, for the extras and groups of `lockfiles.closure.required`.

    `allow_sha1` names packages that are accepted by a sha1 alone. Raises NoMatchingArtifactError
    naming package, target and the nearest wheel, MissingHashError where the file has no digest to
    accept it by, and what `required` raises.
    """
    packages = required(lock, target, extras, groups)
    chosen = (
        Choice(package=package, artifact=choose(lock, package, target, sdists, allow_sha1))
        for package in packages
        if isinstance(package.source, (IndexSource, UrlSource))
    )
    sources = (p for p in packages if not isinstance(p.source, (IndexSource, UrlSource)))
    return Selection(
        target=target,
        choices=tuple(sorted(chosen, key=lambda c: (c.package.name, c.artifact.filename))),
        sources=tuple(sorted(sources, key=lambda package: package.name)),
    )


def choose(
    lock: Lock, package: Package, target: Target, sdists: Sdists, allow_sha1: Collection[str]
) -> Artifact:
    """Choose the file that `target` takes of a package.

    Raises NoMatchingArtifactError and MissingHashError.
    """
    artifact = _CHOOSERS[package.ecosystem](package, target, sdists.use(package, lock.options))
    return _hashed(lock, package, artifact, allow_sha1)


def best_artifact(package: Package, target: Target, sdists: SdistUse = "fallback") -> Artifact:
    """Choose the wheel that pip would, or an sdist. Raises NoMatchingArtifactError."""
    wheels = [] if sdists == "always" else _ranked_wheels(package, target)
    if wheels:
        best = min(rank for rank, _ in wheels)
        return max(
            (a for rank, a in wheels if rank == best), key=lambda a: (build_tag(a.filename), a.filename)
        )
    found = [] if sdists == "never" else [a for a in package.artifacts if _is_source(package, a)]
    if found:
        return min(found, key=lambda a: (not a.filename.endswith(".tar.gz"), a.filename))
    raise _nothing_fits(package, target, sdists)


def _only_artifact(package: Package, target: Target, sdists: SdistUse) -> Artifact:
    """Give the tarball; a version of an npm package has one for all platforms that it is made for."""
    return package.artifacts[0]


_CHOOSERS: Mapping[Ecosystem, Callable[[Package, Target, SdistUse], Artifact]] = {
    Ecosystem.PYPI: best_artifact,
    Ecosystem.NPM: _only_artifact,
}


def _ranked_wheels(package: Package, target: Target) -> list[tuple[int, Artifact]]:
    ranks = target.ranks()
    return [
        (min(fitting), artifact)
        for artifact in package.artifacts
        if (fitting := [ranks[tag] for tag in wheel_tags(artifact.filename) if tag in ranks])
        and is_wheel(artifact.filename)
    ]


def _is_source(package: Package, artifact: Artifact) -> bool:
    """Say whether a file is built from; a direct URL may name an archive of any name."""
    return is_sdist(artifact.filename) or (
        isinstance(package.source, UrlSource) and not artifact.filename.endswith(".whl")
    )


def _hashed(lock: Lock, package: Package, artifact: Artifact, allow_sha1: Collection[str]) -> Artifact:
    digests = (*artifact.digests, *package.digests)
    if not any(digest.is_strong for digest in digests):
        has_sha1 = any(digest.algorithm == "sha1" for digest in digests)
        if has_sha1 and package.name in allow_sha1:
            return artifact
        raise MissingHashError(
            f"{package.label}: {artifact.filename} has no hash that is strong enough",
            where=lock.filename,
            hint=_WEAK_HINTS[has_sha1].format(name=package.name),
        )
    return artifact


_WEAK_HINTS = {
    False: "lock again with an index that tells the sha256 of its files",
    True: "lock again with an index that tells stronger ones than sha1, or accept this one: "
    'allow_sha1 = ["{name}"] in [locks.NAME]',
}


def _option(name: str, options: Mapping[str, tuple[str, ...]]) -> SdistUse | None:
    """Say what pip's options ask for; one that names the package goes before one for all, as in pip."""
    uses: tuple[tuple[str, SdistUse], ...] = (("no-binary", "always"), ("only-binary", "never"))
    for wanted in (name, ":all:"):
        for option, use in uses:
            values = {value.strip() for text in options.get(option, ()) for value in text.split(",")}
            if wanted in {str(canonicalize_name(value)) for value in values}:
                return use
    return None


def _nothing_fits(package: Package, target: Target, sdists: SdistUse) -> NoMatchingArtifactError:
    wheels = sorted(a.filename for a in package.artifacts if wheel_tags(a.filename))
    wanted = {"always": "no sdist", "never": "no wheel", "fallback": "no file"}[sdists]
    nearest = f"; the nearest wheel is {_nearest(wheels, target)}" if wheels and sdists != "always" else ""
    return NoMatchingArtifactError(
        f"{package.label} has {wanted} that fits {target}{nearest}",
        hint="lock a version that supports this target, or take the target out of lockstock.toml",
    )


def _nearest(wheels: Iterable[str], target: Target) -> str:
    """Name the wheel that lacks least: the right platform, the right Python, the right machine."""

    def score(filename: str) -> tuple[bool, bool, bool, bool]:
        tags = wheel_tags(filename)
        return (
            any(tag.platform in platforms for tag in tags),
            any((tag.interpreter, tag.abi) in pythons for tag in tags),
            any(tag.platform.endswith(target.arch) for tag in tags),
            any(tag.platform.startswith(libc) for tag in tags),
        )

    platforms = {tag.platform for tag in target.tags}
    pythons = {(tag.interpreter, tag.abi) for tag in target.tags}
    libc = "musllinux" if target.libc == "musl" else "manylinux"
    best = max(wheels, key=score)
    platform, python, *_ = score(best)
    lacks = [word for word, fits in (("platform", platform), ("Python", python)) if not fits]
    return f"{best}, which is for another {' and '.join(lacks)}" if lacks else best
