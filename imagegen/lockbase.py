"""`imagegen lock-base`: what the bases of the images are now, noted in debs.lock and bases.lock."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from imagegen import bases, debs, debslock
from imagegen.baselock import read_pins, write_pins
from imagegen.basesources import IMAGES, base_name, bring_base
from imagegen.debslock import DebsLock, LockedBase
from imagegen.engines.connect import docker_engine
from imagegen.errors import BaseError
from imagegen.live import Progress
from imagegen.spec import DebianBase, DockerBase, ImageSpec, find_image, load_images
from lockfiles.errors import ConfigError
from mirror.config import Config
from mirror.store import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """A base that was locked, and the files of it that the lock did not have before."""

    base: LockedBase
    fresh: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all its packages."""
        return sum(deb.size for deb in self.base.debs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was locked: debian: bases, and the digests of the other bases by their names."""

    debian: tuple[Locked, ...]
    pinned: Mapping[str, str]


def lock_bases(config: Config, names: Collection[str], progress: Progress) -> Outcome:
    """Lock and stock the bases of these images, of all images where none is named.

    What other images ask for stays as it was; what none asks for leaves the locks, which are written
    when all is stocked. Raises BaseError, EngineUnavailableError and ConfigError.
    """
    images = load_images(config)
    chosen = [find_image(config, name) for name in names] or list(images)
    if not chosen:
        raise ConfigError("there is nothing to lock: no image is configured", where=str(config.file))
    pins = {base_name(config, spec.base): _pin(config, spec, progress)
            for spec in chosen if not isinstance(spec.base, DebianBase)}  # fmt: skip
    locked = _lock_debian(config, _debian(chosen), _debian(images), progress)
    asked = {base_name(config, spec.base) for spec in images}
    before = read_pins(config.file.parent)
    kept = {name: digest for name, digest in (before | pins).items() if name in asked}
    if kept != before:
        write_pins(config.file.parent, kept)
    return Outcome(debian=locked, pinned=pins)


def _lock_debian(
    config: Config, wanted: Sequence[DebianBase], asked: Sequence[DebianBase], progress: Progress
) -> tuple[Locked, ...]:
    before = debs.read_lock(config.file.parent)
    if not wanted and before is None:
        return ()
    old, store = before or DebsLock(), bases.debs_store(config)
    locked = [debs.resolve(base.suite, bases.wanted(base), store, progress) for base in wanted]
    fresh = {base.key for base in locked}
    needed = {(base.suite, bases.wanted(base)) for base in asked}
    kept = [base for base in old.bases if base.key not in fresh and (base.suite, base.packages) in needed]
    text = DebsLock((*kept, *locked)).text()
    write_atomically(config.file.parent / debslock.NAME, text.encode())
    return tuple(Locked(base=base, fresh=_fresh(base, old)) for base in locked)


def _pin(config: Config, spec: ImageSpec, progress: Progress) -> str:
    """Find out what a base is now, and stock it for each platform that it is there for."""
    if isinstance(spec.base, DockerBase):
        return docker_engine().renew(spec.base.reference, progress).digest
    assert not isinstance(spec.base, DebianBase)  # noqa: S101 - for the type checker: it has no digest
    folder, name = config.root / "bases" / IMAGES, base_name(config, spec.base)
    first, *others = _platforms(config)
    pin = bring_base(spec.base, name, None, first, folder, progress).pin
    for other in others:
        try:
            bring_base(spec.base, name, pin, other, folder, progress)
        except BaseError as error:
            progress.step(f"note: {name} is not stocked for {other}: {error.reason}")
    return pin


def _platforms(config: Config) -> Sequence[str]:
    """Give the platforms of the targets in OCI's words, that of this machine first."""
    own = sorted(config.targets, key=lambda target: target.arch != platform.machine())
    return list(dict.fromkeys(target.oci_platform for target in own))


def _debian(images: Collection[ImageSpec]) -> list[DebianBase]:
    found = {image.base for image in images if isinstance(image.base, DebianBase)}
    return sorted(found, key=lambda base: (base.suite, base.packages))


def _fresh(base: LockedBase, before: DebsLock) -> tuple[str, ...]:
    old = before.find(*base.key)
    known = {deb.file for deb in old.debs} if old else set()
    return tuple(deb.file for deb in base.debs if deb.file not in known)
