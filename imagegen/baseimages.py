"""Bases that are images: found by name, kept by digest in MIRROR/bases, and read layer by layer.

Layers stay as they are, so that whoever has the base already has them. A name may stand for an index
of several platforms; the manifest of the one that is wanted is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from imagegen.bases import alone
from imagegen.compression import plain
from imagegen.errors import BaseError
from imagegen.layers import Layer, Layers
from imagegen.live import Progress
from imagegen.merged import merge
from mirror.console import human_size
from mirror.store import disk_errors, sync_folder, write_atomically

LARGEST_DOCUMENT = 4 << 20
_MOST_LAYERS = 127
_MOST_BYTES = 64 << 30
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAR = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.v1\.tar(?:\+(?:gzip|zstd))?"
    r"|docker\.image\.rootfs\.diff\.tar(?:\.(?:gzip|zstd))?)"
)
# What the settings of an image are, each of which may be left out (OCI image specification, config).
_SETTINGS = {"Env": list, "Labels": dict, "ExposedPorts": dict, "Volumes": dict, "StopSignal": str}
_OCI_TAR = "application/vnd.oci.image.layer.v1.tar"


class Source(Protocol):
    """Where base images come from."""

    def resolve(self, name: str) -> str:
        """Give the digest that a tag stands for. Raises BaseError."""
        ...

    def read(self, digest: str, *, manifest: bool) -> Iterator[bytes]:
        """Give the bytes of a manifest or index, or of another blob. Raises BaseError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """A base of one platform: what its name stands for, its manifest's digest, settings and layers.

    `tarball` is its root file system, all layers merged; `blobs` is the folder of its layers.
    """

    pin: str
    digest: str
    settings: Mapping[str, Any]
    layers: tuple[Layer, ...]
    blobs: Path
    tarball: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A base as the spec calls it, a tag or digest of it, and the platform in OCI's words."""

    name: str
    tag: str
    platform: str


def bring(
    wanted: Wanted, opened: Callable[[], AbstractContextManager[Source]], folder: Path, progress: Progress
) -> BaseImage:
    """Give a base image from `folder`, fetching what is not there. Raises BaseError.

    Nobody is asked where the tag is a digest and all of it is held.
    """
    with ExitStack() as stack:
        held = _Held(folder, wanted.name, lambda: stack.enter_context(opened()), progress)
        pin = wanted.tag if _DIGEST.fullmatch(wanted.tag) else held.resolve(wanted.tag)
        digest, manifest = _manifest(held, pin, wanted)
        config = held.document(_digest(manifest.get("config"), wanted.name), manifest=False)
        layers, settings = _layers(manifest, config, wanted.name), _settings(config, wanted.name)
        _check_platform(config, wanted)
        tarball = folder / f"image-{digest.removeprefix('sha256:')}.tar"
        for layer in layers:
            held.layer(layer)
        if not tarball.exists():
            with alone(folder):
                if not tarball.exists():  # another run may have merged them while this one waited
                    progress.step(f"merging {len(layers)} layers of the base {wanted.name} (once)")
                    _merge(layers, held, tarball, wanted.name)
    return BaseImage(
        pin=pin, digest=digest, settings=settings, layers=layers, blobs=held.blobs, tarball=tarball
    )


class _Held:
    """Blobs of bases in a folder; the source is opened when the first one is missing."""

    def __init__(self, folder: Path, where: str, opened: Callable[[], Source], progress: Progress) -> None:
        self.blobs = Layers(folder).blobs
        self._where = where
        self._opened = opened
        self._source: Source | None = None
        self._progress = progress

    @property
    def source(self) -> Source:
        self._source = self._source or self._opened()
        return self._source

    def resolve(self, tag: str) -> str:
        return self.source.resolve(tag)

    def path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def document(self, digest: str, *, manifest: bool) -> dict[str, Any]:
        """Give a manifest or index, or a configuration."""
        data = self._whole(digest)
        if data is None:
            self._take(digest, LARGEST_DOCUMENT, manifest=manifest)
            data = self.path(digest).read_bytes()
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise BaseError(f"{digest} is not a JSON object", where=self._where)
        return content

    def _whole(self, digest: str) -> bytes | None:
        """Give a document that is held, unless it is not what its digest says any more."""
        path = self.path(digest)
        if not path.exists() or path.stat().st_size > LARGEST_DOCUMENT:
            return None
        data = path.read_bytes()
        return data if f"sha256:{hashlib.sha256(data).hexdigest()}" == digest else None

    def layer(self, layer: Layer) -> None:
        """Have a layer, whole."""
        path = self.path(layer.digest)
        if not (path.exists() and path.stat().st_size == layer.size):
            self._progress.step(f"fetching a layer of {self._where}, {human_size(layer.size)}")
            self._take(layer.digest, layer.size, manifest=False)

    def _take(self, digest: str, limit: int, *, manifest: bool) -> None:
        """Fetch a blob, and keep it if it is what its digest says."""
        with disk_errors(self.blobs):
            self.blobs.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.blobs, suffix=".tmp", delete=False) as file:
                try:
                    sha256, size = hashlib.sha256(), 0
                    for piece in self.source.read(digest, manifest=manifest):
                        size += len(piece)
                        if size > limit:
                            raise BaseError(f"{digest} is larger than announced", where=self._where)
                        sha256.update(piece)
                        file.write(piece)
                    if f"sha256:{sha256.hexdigest()}" != digest:
                        raise BaseError(
                            f"{digest} came with other bytes",
                            where=self._where,
                            hint="it is damaged or was tampered with: ask who runs its place",
                        )
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).chmod(0o444)
                    Path(file.name).rename(self.path(digest))
                finally:
                    Path(file.name).unlink(missing_ok=True)
            sync_folder(self.blobs)


def _manifest(held: _Held, pin: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Give the manifest of the platform, and its digest."""
    document = held.document(pin, manifest=True)
    entries = document.get("manifests")
    if entries is None:
        return pin, document
    fitting = [entry for entry in _dicts(entries) if _platform(entry.get("platform")) == wanted.platform]
    if not fitting:
        there = sorted({p for entry in _dicts(entries) if (p := _platform(entry.get("platform")))})
        raise BaseError(
            f"it is not there for {wanted.platform}, only for {', '.join(there) or 'no platform at all'}",
            where=wanted.name,
            hint="choose another base, or another --platform",
        )
    digest = _digest(fitting[0], wanted.name)
    manifest = held.document(digest, manifest=True)
    if "manifests" in manifest:
        raise BaseError("an index within an index is not understood", where=wanted.name)
    return digest, manifest


def _layers(manifest: Mapping[str, Any], config: Mapping[str, Any], where: str) -> tuple[Layer, ...]:
    entries = _dicts(manifest.get("layers"))
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not entries or not isinstance(diff_ids, list) or len(diff_ids) != len(entries):
        raise BaseError("it is no image: its layers and its configuration do not fit", where=where)
    if len(entries) > _MOST_LAYERS:
        raise BaseError(f"it has {len(entries)} layers, more than engines can stack", where=where)
    return tuple(_layer(entry, diff_id, where) for entry, diff_id in zip(entries, diff_ids, strict=True))


def _layer(entry: Mapping[str, Any], diff_id: object, where: str) -> Layer:
    media_type, size = str(entry.get("mediaType")), entry.get("size")
    if not _TAR.fullmatch(media_type):
        raise BaseError(f"a layer of the kind {media_type[:100]!r} cannot be used", where=where)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MOST_BYTES:
        raise BaseError("a layer has no sensible size", where=where)
    ending = re.search(r"(gzip|zstd)$", media_type)
    return Layer(
        digest=_digest(entry, where),
        diff_id=_digest({"digest": diff_id}, where),
        size=size,
        comment=where,
        media_type=f"{_OCI_TAR}+{ending[0]}" if ending else _OCI_TAR,
    )


def _settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Give the settings of containers, if those that go on to other images are what they should be."""
    settings = config.get("config") or {}
    if not isinstance(settings, dict):
        raise BaseError("the settings in its configuration are no JSON object", where=where)
    for name, kind in _SETTINGS.items():
        value = settings.get(name)
        strange = value is not None and not isinstance(value, kind)
        if strange or (name == "Env" and not all(map(_is_variable, value or ()))):
            raise BaseError(f"{name} in its configuration is malformed", where=where)
    return settings


def _is_variable(line: object) -> bool:
    return isinstance(line, str) and "\0" not in line


def _merge(layers: Iterable[Layer], held: _Held, tarball: Path, where: str) -> None:
    """Write the merged root file system, having compared every layer with what the configuration says."""
    with disk_errors(tarball.parent), tempfile.TemporaryDirectory(dir=tarball.parent, suffix=".tmp") as name:
        plains, left = [], _MOST_BYTES
        for number, layer in enumerate(layers):
            path = Path(name, str(number))
            left -= _decompress(held.path(layer.digest), path, layer.diff_id, left, where)
            plains.append(path)
        merged = Path(name, "merged")
        with merged.open("wb") as out:
            merge(plains, out, where)
            out.flush()
            os.fsync(out.fileno())
        merged.chmod(0o444)
        merged.rename(tarball)
    sync_folder(tarball.parent)


def _decompress(layer: Path, target: Path, diff_id: str, limit: int, where: str) -> int:
    sha256, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as out:
            for piece in plain(layer):
                size += len(piece)
                if size > limit:
                    raise BaseError("its layers hold far too much", where=where)
                sha256.update(piece)
                out.write(piece)
    except ValueError as error:
        raise BaseError(f"a layer is damaged: {error}", where=where) from error
    if f"sha256:{sha256.hexdigest()}" != diff_id:
        raise BaseError("a layer is not what the image's configuration says", where=where)
    return size


def _check_platform(config: Mapping[str, Any], wanted: Wanted) -> None:
    found = _platform(config)
    if found != wanted.platform:
        raise BaseError(
            f"it is for {found or 'no platform'}, and {wanted.platform} is wanted",
            where=wanted.name,
            hint="choose another base, or another --platform",
        )


def _platform(described: object) -> str:
    """Give os/architecture. A variant says no more than what each 64-bit platform has."""
    if not isinstance(described, dict):
        return ""
    system, architecture = described.get("os"), described.get("architecture")
    known = isinstance(system, str) and isinstance(architecture, str) and system != "unknown"
    return f"{system}/{architecture}" if known else ""


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _digest(described: object, where: str) -> str:
    digest = described.get("digest") if isinstance(described, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BaseError("it is no image: a digest is missing, or is no sha256", where=where)
    return digest


def write_image(folder: Path, config: bytes, layers: Iterable[Layer]) -> str:
    """Write the manifest of an image whose layers lie among the blobs of `folder`; give its digest."""
    blobs = Layers(folder).blobs
    described = {"digest": f"sha256:{hashlib.sha256(config).hexdigest()}", "size": len(config)}
    entries = [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in layers]
    manifest = json.dumps(
        {"schemaVersion": 2, "config": described, "layers": entries}, sort_keys=True
    ).encode()
    for data in (config, manifest):
        write_atomically(blobs / hashlib.sha256(data).hexdigest(), data)
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def link_layers(image: BaseImage, blobs: Path) -> None:
    """Have the layers of a base in another folder of blobs too."""
    blobs.mkdir(parents=True, exist_ok=True)
    for layer in image.layers:
        name = layer.digest.removeprefix("sha256:")
        if not (blobs / name).exists():
            fresh = blobs / f"{name}.tmp"
            fresh.unlink(missing_ok=True)
            try:
                fresh.hardlink_to(image.blobs / name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(image.blobs / name, fresh)
            fresh.rename(blobs / name)
