"""An image on its way to registries: only what they lack, and its tags when all of it is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from imagegen.credentials import find_credentials
from imagegen.errors import BadReferenceError
from imagegen.live import Progress
from imagegen.oci import INDEX_TYPE, Image, ImageLayout, digest_of
from imagegen.plan import ImagePlan
from imagegen.platforms import ImageIndex
from imagegen.reference import Reference
from imagegen.referrers import EMPTY, MANIFEST_TYPE
from lockfiles.errors import LockError
from mirror.console import human_size
from mirror.store import write_atomically

LOCK = "images.lock"
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What came of a push: the reference with the digest, its tags, and bytes sent and not sent."""

    reference: str
    tags: tuple[str, ...]
    sent: int
    mounted: int
    present: int


def tags_of(reference: Reference, templates: Iterable[str], plan: ImagePlan) -> tuple[str, ...]:
    """Give the tags to set: the reference's own, those of the templates, or else the content's.

    In a template {name} and {version} stand for the image's. Raises BadReferenceError.
    """
    values = {"name": plan.name, "version": plan.version}
    filled = [re.sub(r"\{(name|version)\}", lambda found: values[found[1]], text) for text in templates]
    tags = tuple(dict.fromkeys([*([reference.tag] if reference.tag else []), *filled])) or (plan.version,)
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise BadReferenceError(
                "it is no tag",
                where=tag,
                hint="letters, digits, _, . and -, 128 at most; {name} and {version}",
            )
    return tags


def push(
    image: Image, layout: ImageLayout, reference: Reference, tags: Iterable[str], progress: Progress
) -> Pushed:
    """Push an image of a layout and its evidence. A tag is set only when the registry holds all of it.

    What arrived before a cut is not sent again by the next run. Raises PushError.
    """
    from imagegen.registry import Repository  # its client takes long to import

    memory = _Memory(layout.root.parent / "registries", reference.registry)
    evidence = layout.referrers(image.digest)
    sizes = {layer.digest: layer.size for layer in image.layers} | {image.id: len(image.config)}
    if evidence:
        sizes |= {one.blob_digest: len(one.blob) for one in evidence} | {digest_of(EMPTY): len(EMPTY)}
    with Repository(reference, find_credentials(reference.registry)) as repository:
        progress.step(f"pushing {human_size(sum(sizes.values()))} to {reference}, or what it lacks of that")

        def bring(digest: str) -> str:
            if repository.has_blob(digest):
                return "present"
            source = memory.repository_with(digest)
            if source and source != reference.repository and repository.mount(digest, source):
                return "mounted"
            repository.upload(digest, layout.blob(digest))
            progress.detail(f"sent {digest[:19]}, {human_size(sizes[digest])}")
            return "sent"

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ways = dict(zip(sizes, pool.map(bring, sizes), strict=True))
        named = tuple(tags)
        repository.put_manifest(image.digest, image.manifest, MANIFEST_TYPE)
        repository.refer(evidence)
        for name in named:
            repository.put_manifest(name, image.manifest, MANIFEST_TYPE)
    memory.remember(reference.repository, sizes)
    bytes_by_way = {way: sum(sizes[d] for d, w in ways.items() if w == way) for way in set(ways.values())}
    return Pushed(
        reference=f"{reference}@{image.digest}",
        tags=named,
        sent=bytes_by_way.get("sent", 0),
        mounted=bytes_by_way.get("mounted", 0),
        present=bytes_by_way.get("present", 0),
    )


def push_all(
    images: Sequence[Image],
    layout: ImageLayout,
    reference: Reference,
    tags: Iterable[str],
    progress: Progress,
) -> Pushed:
    """Push an image for one platform, or for several: each of them, then what lists them, then the tags."""
    from imagegen.registry import Repository  # as above

    if len(images) == 1:
        return push(images[0], layout, reference, tags, progress)
    whole = ImageIndex(images=tuple(images))
    parts = [push(image, layout, reference, (), progress) for image in whole.images]
    named = tuple(tags)
    with Repository(reference, find_credentials(reference.registry)) as repository:
        for name in (whole.digest, *named):
            repository.put_manifest(name, whole.manifest, INDEX_TYPE)
    return Pushed(
        reference=f"{reference}@{whole.digest}",
        tags=named,
        sent=sum(part.sent for part in parts),
        mounted=sum(part.mounted for part in parts),
        present=sum(part.present for part in parts),
    )


def push_each(
    file: Path,
    name: str,
    images: Sequence[Image],
    layout: ImageLayout,
    targets: Iterable[tuple[Reference, Iterable[str]]],
    progress: Progress,
) -> list[Pushed]:
    """Push an image to all these with their tags, and note them in images.lock.

    What was pushed before one failed is noted, too. Raises LockError before anything is sent, and PushError.
    """
    _locked(file)
    pushed: list[Pushed] = []
    try:
        for target, tags in targets:
            pushed.append(push_all(images, layout, target, tags, progress))
    finally:
        if pushed:
            write_lock(file, name, pushed)
    return pushed


def read_lock(file: Path, name: str) -> str | None:
    """Give the reference with the digest by which an image can be pulled, if images.lock has one.

    Raises LockError.
    """
    return next((str(entry["reference"]) for entry in _locked(file).get(name, ())), None)


def write_lock(file: Path, name: str, pushed: Iterable[Pushed]) -> None:
    """Note in images.lock by which digests an image can be pulled; other images keep theirs.

    Raises LockError where it cannot be read.
    """
    images = _locked(file)
    images[name] = [{"reference": one.reference, "tags": asdict(one)["tags"]} for one in pushed]
    write_atomically(file, (json.dumps({"images": images}, indent=1, sort_keys=True) + "\n").encode())


def _locked(file: Path) -> dict[str, list[dict[str, object]]]:
    """Give what images.lock has for each image; nothing where it is not there."""
    try:
        images = json.loads(file.read_text(encoding="utf-8"))["images"]
        if all(isinstance(entry["reference"], str) for entries in images.values() for entry in entries):
            return dict(images)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file) from error
    raise _damaged(file)


def _damaged(file: Path) -> LockError:
    hint = "take it from version control again, or delete it and push each image again"
    return LockError("it is damaged: it does not say which images were pushed", where=str(file), hint=hint)


class _Memory:
    """Which repository of a registry was given which blob; may be deleted at any time."""

    def __init__(self, folder: Path, registry: str) -> None:
        self._file = folder / f"{sha256(registry.encode()).hexdigest()[:16]}.json"
        try:
            self._known = {str(k): str(v) for k, v in json.loads(self._file.read_bytes()).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            self._known = {}

    def repository_with(self, digest: str) -> str | None:
        return self._known.get(digest)

    def remember(self, repository: str, digests: Iterable[str]) -> None:
        known = self._known | dict.fromkeys(digests, repository)
        write_atomically(self._file, json.dumps(known, sort_keys=True).encode())
