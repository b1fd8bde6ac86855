"""`imagegen lock-base`: which bases the images ask for, and their packages as of now in debs.lock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from imagegen import bases, debs, debslock
from imagegen.aptroot import native_architecture
from imagegen.debslock import DebsLock, LockedBase
from imagegen.live import Progress
from imagegen.spec import DebianBase, ImageSpec, find_image, load_images
from lockfiles.errors import ConfigError
from mirror.config import Config
from mirror.store import Store, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """A base that was locked, and the files of it that the lock did not have before."""

    base: LockedBase
    fresh: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all its packages."""
        return sum(deb.size for deb in self.base.debs)


def lock_bases(config: Config, names: Collection[str], progress: Progress) -> tuple[Locked, ...]:
    """Lock and stock the debian: bases of these images, of all images where none is named.

    What other images ask for stays as it was; what none asks for leaves the lock. Raises BaseError
    and ConfigError; debs.lock is written when all is stocked.
    """
    chosen = [find_image(config, name) for name in names] or list(load_images(config))
    wanted = _wanted(chosen)
    if not wanted:
        raise ConfigError(
            "there is nothing to lock: no image has a debian: base",
            where=str(config.file),
            hint="other bases are pinned by their digest",
        )
    before = debs.read_lock(config.file.parent) or DebsLock()
    store = debs_store(config)
    locked = [debs.resolve(base.suite, bases.wanted(base), store, progress) for base in wanted]
    asked = {(base.suite, bases.wanted(base)) for base in _wanted(load_images(config))}
    keys = {base.key for base in locked}
    kept = [base for base in before.bases if base.key not in keys and (base.suite, base.packages) in asked]
    text = DebsLock((*kept, *locked)).text()
    write_atomically(config.file.parent / debslock.NAME, text.encode())
    return tuple(Locked(base=base, fresh=_fresh(base, before)) for base in locked)


def debs_store(config: Config) -> Store:
    """Give the store of a mirror's Debian packages."""
    return Store(config.root / debs.FOLDER)


def locked_base(config: Config, base: DebianBase) -> LockedBase | None:
    """Give what debs.lock says of a base; without the file there is nothing to say. Raises ConfigError."""
    lock = debs.read_lock(config.file.parent)
    if lock is None:
        return None
    architecture = native_architecture()
    found = lock.find(base.suite, architecture, bases.wanted(base))
    if found is None:
        raise ConfigError(
            f"it has no {base} for {architecture} with exactly {', '.join(bases.wanted(base))}",
            where=str(config.file.parent / debslock.NAME),
            hint="run `imagegen lock-base`, which adds it; without the file, the archive of today is used",
        )
    return found


def _wanted(images: Collection[ImageSpec]) -> list[DebianBase]:
    found = {image.base for image in images if isinstance(image.base, DebianBase)}
    return sorted(found, key=lambda base: (base.suite, base.packages))


def _fresh(base: LockedBase, before: DebsLock) -> tuple[str, ...]:
    old = before.find(*base.key)
    known = {deb.file for deb in old.debs} if old else set()
    return tuple(deb.file for deb in base.debs if deb.file not in known)
