"""Images on their way to one repository: only what it lacks, and its tags when all of it is there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen.credentials import find_credentials
from imagegen.errors import PushError
from imagegen.live import Progress
from imagegen.oci import INDEX_TYPE, Image, ImageLayout, digest_of
from imagegen.platforms import ImageIndex
from imagegen.reference import Reference
from imagegen.referrers import EMPTY, MANIFEST_TYPE
from imagegen.workers import Workers
from mirror.console import human_size
from mirror.store import write_atomically

if TYPE_CHECKING:
    from imagegen.registry import Repository

_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What came of a push: the reference with the digest, its tags, and bytes sent and not sent."""

    reference: str
    tags: tuple[str, ...]
    sent: int
    mounted: int
    present: int


class Delivery:
    """A repository that is being pushed to, a context manager; it is opened at once, beside other work.

    Blobs may be brought before the image is whole. What arrived before a cut is not sent again by the next
    run.
    """

    def __init__(self, layout: ImageLayout, reference: Reference, progress: Progress) -> None:
        self.reference = reference
        self._layout = layout
        self._progress = progress
        self._memory = _Memory(layout.root.parent / "registries", reference.registry)
        self._workers = Workers(_AT_ONCE)
        self._opened = self._workers.submit(self._open)
        self._early: dict[str, Future[str | None]] = {}
        self._failed = False

    def __enter__(self) -> Delivery:
        """Nothing is waited for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; what is still on its way is given up."""
        self._workers.close()
        if self._opened.done() and not self._opened.exception():
            self._opened.result().__exit__()

    def check(self) -> None:
        """Raise PushError where the registry cannot be reached, or lets this user push nothing there."""
        self._progress.detail(f"asking {self.reference.registry}")
        self._opened.result()

    def bring(self, digest: str, size: int) -> None:
        """Begin to bring a blob of the layout. Where that fails, `finish` does so once more."""
        if digest not in self._early:
            self._early[digest] = self._workers.submit(partial(self._try_to_bring, digest, size))

    def finish(self, images: Sequence[Image], tags: Iterable[str]) -> Pushed:
        """Bring what lacks of an image for one platform, or for several, and its evidence; then set tags.

        Of several there is an index, which the tags stand for. Raises PushError.
        """
        repository, named = self._opened.result(), tuple(tags)
        sizes: dict[str, int] = {}
        for image in images:
            sizes |= self._sizes(image)
        size = human_size(sum(sizes.values()))
        self._progress.step(f"the image stands; pushing {size} to {self.reference}, or what it lacks of that")
        ways = self._bring_all(sizes)
        for image in images:
            repository.put_manifest(image.digest, image.manifest, MANIFEST_TYPE)
            repository.refer(self._layout.referrers(image.digest))
        manifest, kind = images[0].manifest, MANIFEST_TYPE
        if len(images) > 1:
            manifest, kind = ImageIndex(images=tuple(images)).manifest, INDEX_TYPE
            repository.put_manifest(digest_of(manifest), manifest, kind)
        for name in named:
            repository.put_manifest(name, manifest, kind)
        self._memory.remember(self.reference.repository, sizes)
        bytes_by_way = {way: sum(sizes[d] for d, w in ways.items() if w == way) for way in set(ways.values())}
        return Pushed(
            reference=f"{self.reference}@{digest_of(manifest)}",
            tags=named,
            sent=bytes_by_way.get("sent", 0),
            mounted=bytes_by_way.get("mounted", 0),
            present=bytes_by_way.get("present", 0),
        )

    def _open(self) -> Repository:
        from imagegen.registry import Repository  # its client takes long to import

        repository = Repository(self.reference, find_credentials(self.reference.registry)).__enter__()
        repository.check_push()
        return repository

    def _sizes(self, image: Image) -> dict[str, int]:
        """Give the blobs of an image and of its evidence."""
        evidence = self._layout.referrers(image.digest)
        sizes = {layer.digest: layer.size for layer in image.layers} | {image.id: len(image.config)}
        if evidence:
            sizes |= {one.blob_digest: len(one.blob) for one in evidence} | {digest_of(EMPTY): len(EMPTY)}
        return sizes

    def _bring_all(self, sizes: Mapping[str, int]) -> Mapping[str, str]:
        """Bring what was not brought yet; say of each blob how it came there."""
        early = {digest: way for digest in sizes if (way := self._brought(digest))}
        late = {d: self._workers.submit(partial(self._bring, d, sizes[d])) for d in sizes if d not in early}
        return early | {digest: way.result() for digest, way in late.items()}

    def _brought(self, digest: str) -> str | None:
        return self._early[digest].result() if digest in self._early else None

    def _try_to_bring(self, digest: str, size: int) -> str | None:
        """Where one has failed, others would do so too, each after some attempts."""
        if self._failed:
            return None
        try:
            return self._bring(digest, size)
        except PushError as error:
            if not self._failed:
                self._failed = True
                self._progress.step(f"note: {error}; what lacks there is sent when the image stands")
            return None

    def _bring(self, digest: str, size: int) -> str:
        repository = self._opened.result()
        if repository.has_blob(digest):
            return "present"
        source = self._memory.repository_with(digest)
        if source and source != self.reference.repository and repository.mount(digest, source):
            return "mounted"
        repository.upload(digest, self._layout.blob(digest))
        self._progress.detail(f"sent {digest[:19]}, {human_size(size)}")
        return "sent"


class _Memory:
    """Which repository of a registry was given which blob; may be deleted at any time.

    It is read when it is first asked: what was pushed to another repository just before is in it.
    """

    def __init__(self, folder: Path, registry: str) -> None:
        self._file = folder / f"{sha256(registry.encode()).hexdigest()[:16]}.json"

    @cached_property
    def _known(self) -> dict[str, str]:
        return self._read()

    def _read(self) -> dict[str, str]:
        try:
            return {str(k): str(v) for k, v in json.loads(self._file.read_bytes()).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}

    def repository_with(self, digest: str) -> str | None:
        return self._known.get(digest)

    def remember(self, repository: str, digests: Iterable[str]) -> None:
        known = self._read() | dict.fromkeys(digests, repository)
        write_atomically(self._file, json.dumps(known, sort_keys=True).encode())
