"""What in MIRROR no image needs any more: old images and layers, bases, their packages and programs.

Needed is what the kept images stand on, what the images of lockstock.toml would be built on now, and
what debs.lock and bases.lock name. All of the rest can be made or fetched again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagegen import bases, debs
from imagegen.baselock import read_pins
from imagegen.basesources import IMAGES
from imagegen.debslock import DebsLock, LockedBase
from imagegen.layers import Layers
from imagegen.oci import KEPT, Image, ImageLayout, Surplus
from imagegen.plan import REPOSITORY
from imagegen.spec import DebianBase, ImageSpec, load_images
from mirror.config import Config
from mirror.store import disk_errors

_SETTLING = 3600
_BASE_DIGEST = "org.opencontainers.image.base.digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """Something that went, or would go: its path below the mirror, and the bytes that are free then."""

    path: str
    size: int


def prune(config: Config, *, dry_run: bool) -> tuple[Freed, ...]:
    """Drop what no image needs, or only say what that is, sorted by path.

    It waits for builds that are going on, and builds wait for it. Raises ConfigError, BaseError and
    StoreError.
    """
    images, layout = load_images(config), ImageLayout(config.root / "oci")
    with _alone(config.root):
        surplus = layout.surplus(KEPT, {f"{REPOSITORY}/{spec.name}" for spec in images})
        found = [*surplus.blobs, *_surplus(config, images, surplus)]
        freed = [Freed(path=str(path.relative_to(config.root)), size=_size(path)) for path in found]
        if not dry_run:
            _drop(config.root, layout, surplus, found)
    return tuple(sorted(freed, key=lambda one: one.path))


def _surplus(config: Config, images: Collection[ImageSpec], surplus: Surplus) -> Iterator[Path]:
    lock = debs.read_lock(config.file.parent) or DebsLock()
    folder, digests = config.root / "bases", {_base_of(image) for image in surplus.kept}
    stems = _stems(images, lock)
    digests |= {path.stem.rpartition("-")[2] for path in folder.glob("*.tar")
                if path.stem.rpartition("-")[0] in stems}  # fmt: skip
    pinned = {digest.removeprefix("sha256:") for digest in read_pins(config.file.parent).values()}
    yield from (path for path in folder.glob("*.tar") if path.stem.rpartition("-")[2] not in digests)
    # A build that is going on may have fetched one that no image stands on yet.
    settled = time.time() - _SETTLING
    yield from (path for path in _images(folder / IMAGES, digests | pinned) if path.stat().st_mtime < settled)
    digests |= _listed(folder / IMAGES, pinned)
    roots = (path for path in (config.root / "roots").glob("*") if path.is_dir())
    yield from (path for path in roots if path.name.lstrip(".").partition("-")[0] not in digests)
    store, needed = bases.debs_store(config), debs.stocked(lock.bases)
    yield from (store.path(sha256) for sha256 in store.digests() if sha256 not in needed)


def _stems(images: Iterable[ImageSpec], lock: DebsLock) -> set[str]:
    """Give how the files of all bases begin that would be asked for now, on any machine."""
    found = set()
    for base in {spec.base for spec in images if isinstance(spec.base, DebianBase)}:
        locked: list[LockedBase | None] = [
            one for one in lock.bases if (one.suite, one.packages) == (base.suite, bases.wanted(base))
        ]
        found |= {bases.stem_of(base, one) for one in locked or [None]}
    return found


def _images(folder: Path, needed: Collection[str]) -> Iterator[Path]:
    """Give the merged trees, notes and blobs of bases that are images and that nobody stands on."""
    digests = set(needed) | _listed(folder, needed)
    noted = {path: path.read_text() for path in folder.glob("docker-*")}
    yield from (path for path in noted if path.name.removeprefix("docker-") not in digests)
    digests |= {text.removeprefix("sha256:") for path, text in noted.items()
                if path.name.removeprefix("docker-") in digests}  # fmt: skip
    yield from (
        path for path in folder.glob("image-*.tar") if path.stem.removeprefix("image-") not in digests
    )
    blobs = Layers(folder).blobs
    whole = digests | {blob for digest in digests for blob in _parts(blobs / digest)}
    yield from (path for path in sorted(blobs.glob("*")) if path.name not in whole)


def _listed(folder: Path, needed: Collection[str]) -> set[str]:
    """Give the manifests that indexes among the needed documents list."""
    blobs = Layers(folder).blobs
    return {part for digest in needed for part in _parts(blobs / digest, "manifests")}


def _parts(document: Path, *keys: str) -> Iterator[str]:
    """Give the digests that a manifest or index names, without the algorithm."""
    try:
        content = json.loads(document.read_bytes())
        entries = [
            content.get("config"),
            *(e for key in keys or ("manifests", "layers") for e in content.get(key, ())),
        ]
        yield from (str(entry["digest"]).removeprefix("sha256:") for entry in entries if entry)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return


def _base_of(image: Image) -> str:
    notes = json.loads(image.manifest).get("annotations") or {}
    return str(notes.get(_BASE_DIGEST, "")).removeprefix("sha256:")


def _drop(root: Path, layout: ImageLayout, surplus: Surplus, found: Iterable[Path]) -> None:
    with disk_errors(root):
        layout.drop(surplus)
        for path in found:
            if path.is_dir():
                # A name of its own first, so that half a folder is never taken for a whole one.
                doomed = path.with_name(f".{path.name}.tmp")
                path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in (root, root / "bases" / IMAGES):
            Layers(folder).forget_lost()


def _size(path: Path) -> int:
    """Give the bytes that are free without it: those that have another name stay."""
    files = (
        [path]
        if path.is_file()
        else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    )
    stats = [file.lstat() for file in files]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold what builds hold: the images, and the bases."""
    with disk_errors(root):
        (root / "oci").mkdir(parents=True, exist_ok=True)
        with bases.alone(root / "bases"), (root / "oci" / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
