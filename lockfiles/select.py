"""What one target installs of a lock: markers, tag order, sdists only where no wheel fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from lockfiles.errors import NoMatchingArtifactError
from lockfiles.model import Artifact, Lock, Package
from lockfiles.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A package and the one file of it that a target takes."""

    package: Package
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Everything that one target installs of one lock, by name."""

    target: Target
    choices: tuple[Choice, ...]


def applies(package: Package, target: Target) -> bool:
    """Say whether the package's marker holds on the target."""
    if package.marker is None:
        return True
    return any(package.marker.evaluate(environment) for environment in target.environments)


def select(lock: Lock, target: Target) -> Selection:
    """Choose what `target` installs. Raises NoMatchingArtifactError naming package and target."""
    chosen = (
        Choice(package=package, artifact=best_artifact(package, target))
        for package in lock.packages
        if applies(package, target)
    )
    return Selection(
        target=target, choices=tuple(sorted(chosen, key=lambda c: (c.package.name, c.artifact.filename)))
    )


def best_artifact(package: Package, target: Target) -> Artifact:
    """Choose the wheel that pip would, or an sdist where no wheel fits."""
    ranked = [
        (rank, build, a)
        for a in package.artifacts
        if (rank := _rank(a, target)) is not None
        for build in [_build(a)]
    ]
    if ranked:
        best = min(rank for rank, _, _ in ranked)
        return max((r for r in ranked if r[0] == best), key=lambda r: (r[1], r[2].filename))[2]
    sdists = [a for a in package.artifacts if _is_sdist(a)]
    if sdists:
        return min(sdists, key=lambda a: (not a.filename.endswith(".tar.gz"), a.filename))
    raise _nothing_fits(package, target)


def _rank(artifact: Artifact, target: Target) -> int | None:
    ranks = target.ranks()
    return min((ranks[tag] for tag in _wheel_tags(artifact) if tag in ranks), default=None)


def _wheel_tags(artifact: Artifact) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(artifact.filename)[3]
    except InvalidWheelFilename:
        return frozenset()


def _build(artifact: Artifact) -> tuple[int, str]:
    build = parse_wheel_filename(artifact.filename)[2]
    return build or (-1, "")


def _is_sdist(artifact: Artifact) -> bool:
    try:
        parse_sdist_filename(artifact.filename)
    except InvalidSdistFilename:
        return False
    return True


def _nothing_fits(package: Package, target: Target) -> NoMatchingArtifactError:
    names = [a.filename for a in package.artifacts]
    nearest = f"; it has {_nearest(names, target)}" if names else ""
    return NoMatchingArtifactError(
        f"{package.label} has no file that fits {target}{nearest}",
        hint="lock a version that supports this target, or take the target out of lockstock.toml",
    )


def _nearest(names: Iterable[str], target: Target) -> str:
    wanted = {f"cp{target.minor.replace('.', '')}", target.arch, target.libc[:4]}
    return max(sorted(names), key=lambda name: sum(part in name for part in wanted))
