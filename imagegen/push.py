"""Images on their way to registries, and images.lock, which says where they can be pulled from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from imagegen.delivery import Delivery, Pushed
from imagegen.errors import BadReferenceError
from imagegen.layers import Layer
from imagegen.live import Progress
from imagegen.oci import Image, ImageLayout
from imagegen.plan import ImagePlan
from imagegen.reference import Reference
from lockfiles.errors import LockError
from mirror.store import write_atomically

LOCK = "images.lock"
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


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


class Push:
    """An image on its way to some repositories, from before it is built until images.lock names it.

    A context manager. `templates` are of tags. Raises LockError at once, before anything is sent.
    """

    def __init__(
        self,
        file: Path,
        layout: ImageLayout,
        references: Iterable[Reference],
        templates: Sequence[str],
        progress: Progress,
    ) -> None:
        wanted = list(references)
        if wanted:
            _locked(file)
        self._file = file
        self._templates = templates
        self._deliveries = [Delivery(layout, reference, progress) for reference in wanted]

    def __enter__(self) -> Push:
        """Nothing is waited for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all repositories; what is still on its way is given up."""
        for delivery in self._deliveries:
            delivery.__exit__()

    def __bool__(self) -> bool:
        """Whether there is any repository."""
        return bool(self._deliveries)

    def check(self, plan: ImagePlan) -> None:
        """Raise BadReferenceError where a tag is none, PushError where a registry would take nothing."""
        self._tagged(plan)
        for delivery in self._deliveries:
            delivery.check()

    def bring(self, layer: Layer) -> None:
        """Begin to send a layer that stands; where that fails, `finish` does so once more.

        Of one registry's repositories only the first is sent it: the others take it from there.
        """
        first = {delivery.reference.registry: delivery for delivery in reversed(self._deliveries)}
        for delivery in first.values():
            delivery.bring(layer.digest, layer.size)

    def finish(self, plan: ImagePlan, images: Sequence[Image]) -> tuple[Pushed, ...]:
        """Push all that lacks, set the tags, and note in images.lock where the image can be pulled from.

        What was pushed before one failed is noted, too. Raises PushError and BadReferenceError.
        """
        pushed: list[Pushed] = []
        try:
            for delivery, tags in self._tagged(plan):
                pushed.append(delivery.finish(images, tags))
        finally:
            if pushed:
                write_lock(self._file, plan.name, pushed)
        return tuple(pushed)

    def _tagged(self, plan: ImagePlan) -> list[tuple[Delivery, tuple[str, ...]]]:
        return [(one, tags_of(one.reference, self._templates, plan)) for one in self._deliveries]


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
