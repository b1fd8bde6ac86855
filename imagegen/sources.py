"""Where an image can be looked at: in an image layout, or in a registry."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from imagegen.build import LATEST
from imagegen.credentials import find_credentials
from imagegen.errors import NotBuiltError, PushError
from imagegen.oci import ImageLayout, digest_of
from imagegen.plan import REPOSITORY
from imagegen.reference import Reference
from imagegen.referrers import Referrer

_OCI = "oci:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Source(Protocol):
    """Something that holds manifests, small blobs, and artifacts about images."""

    def manifest(self, name: str) -> bytes | None:
        """Give the manifest or index of a tag or digest, or None."""
        ...

    def blob(self, digest: str) -> bytes | None:
        """Give a small blob, or None."""
        ...

    def referrers(self, digest: str) -> tuple[Referrer, ...]:
        """Give the artifacts about a manifest."""
        ...


class LayoutSource:
    """An OCI image layout."""

    def __init__(self, layout: ImageLayout) -> None:
        self.layout = layout

    def manifest(self, name: str) -> bytes | None:
        """Give what a digest, or a name of the layout's index, stands for."""
        return self.blob(self.layout.names().get(name, name))

    def blob(self, digest: str) -> bytes | None:
        """Give a blob that is what its digest says, or None."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or not value.isalnum():  # a hostile layout may name any path
            return None
        try:
            data = self.layout.blob(digest).read_bytes()
        except OSError:
            return None
        return data if digest_of(data) == digest else None

    def referrers(self, digest: str) -> tuple[Referrer, ...]:
        """Give the artifacts about a manifest."""
        return self.layout.referrers(digest)


@contextmanager
def opened(text: str, mirror: Callable[[], ImageLayout]) -> Iterator[tuple[Source, str]]:
    """Open what holds an image, and say what that calls it.

    `text` is oci:DIR or oci:DIR:NAME, an image of lockstock.toml with a version or without, which
    the layout that `mirror` gives holds, or HOST/NAME with a tag or a digest. Raises NotBuiltError,
    BadReferenceError and PushError.
    """
    if text.startswith(_OCI):
        yield _in_folder(text.removeprefix(_OCI))
    elif "/" not in (name := text.removeprefix(f"{REPOSITORY}/")):
        layout = mirror()
        yield LayoutSource(layout), _built(layout, name)
    else:
        reference = Reference.parse_pinned(text)
        from imagegen.registry import Repository  # its client takes long to import

        credentials = find_credentials(reference.registry)
        with Repository(reference, credentials, actions="pull") as repository:
            yield repository, reference.digest or reference.tag or LATEST


def read_manifest(source: Source, name: str, text: str) -> tuple[bytes, Mapping[str, Any]]:
    """Give an image's manifest as bytes and as data; of several platforms, that of this machine.

    Raises NotBuiltError where it is not there, and PushError where it is no image.
    """
    for _ in range(2):
        data = source.manifest(name)
        if data is None:
            raise NotBuiltError("there is no such image", where=text, hint="check the name and its tag")
        try:
            content = dict(json.loads(data))
        except (ValueError, TypeError, RecursionError):
            content = {}
        if isinstance(content.get("layers"), list) and isinstance(content.get("config"), dict):
            return data, content
        if not (name := _of_this_machine(content)):
            break
    raise PushError("it is no image that lockstock can read", where=text)


def _of_this_machine(index: Mapping[str, Any]) -> str:
    """Choose a manifest of an index: the one for this machine, or else the first."""
    entries = index.get("manifests")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    named = [entry for entry in found if _DIGEST.fullmatch(str(entry.get("digest")))]
    own = _ARCHITECTURES.get(platform.machine(), platform.machine())
    fitting = [entry for entry in named if own == _architecture(entry.get("platform"))]
    return str((fitting or named or [{}])[0].get("digest", ""))


def _architecture(stated: object) -> str:
    return str(stated.get("architecture")) if isinstance(stated, dict) else ""


def _in_folder(place: str) -> tuple[Source, str]:
    """Read DIR or DIR:NAME; without a name there must be one image only."""
    path, name = place, ""
    if not Path(place).is_dir():
        path, _, name = place.partition(":")
    layout = ImageLayout(Path(path))
    names = layout.names()
    if name or len(set(names.values())) == 1:
        return LayoutSource(layout), name or next(iter(names))
    reason = "it holds several images" if names else "it is no image layout with an image"
    hint = f"add one of their names: {', '.join(sorted(names))}" if names else "name a folder after oci:"
    raise NotBuiltError(reason, where=f"{_OCI}{place}", hint=hint)


def _built(mirror: ImageLayout, text: str) -> str:
    """Find NAME or NAME:VERSION; without a version, or as the engine calls it, the newest."""
    wanted, _, version = text.partition(":")
    names = [name for name in mirror.names() if name.rpartition(":")[0] == f"{REPOSITORY}/{wanted}"]
    if version not in ("", LATEST):
        names = [name for name in names if name.rpartition(":")[2] == version]
    newest = mirror.newest(names)
    if newest is None:
        raise NotBuiltError(
            "it is not in the mirror's image layout",
            where=text,
            hint=f"run `imagegen build {wanted}`; an image elsewhere is oci:DIR or HOST/NAME:TAG",
        )
    return newest
