"""Images on their way out of the mirror: as an image layout, or as one file that every engine loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from imagegen.archive import Entry, Stream, tar_stream
from imagegen.compression import plain
from imagegen.errors import BuildError
from imagegen.oci import LAYOUT_FILE, Image, ImageLayout, digest_of, named_index
from imagegen.platforms import ImageIndex
from mirror.store import disk_errors, output_path, sync_folder

_BLOBS = "blobs/sha256"


def engine_entries(image: Image, layout: ImageLayout, names: Sequence[str], held: int) -> Iterator[Entry]:
    """Give the files of a `docker save` archive for an engine that has the lowest `held` layers already.

    Layers are decompressed: here it takes a fraction of the time it takes there, and old engines
    know gzip only.
    """
    yield Entry(path="manifest.json", content=_docker_manifest(image, names))
    yield Entry(path=_path(image.id), content=image.config)
    for layer in {layer.digest: layer for layer in image.layers[held:]}.values():
        blob = layout.blob(layer.digest)
        size = layer.unpacked or sum(map(len, plain(blob)))
        yield Entry(path=_path(layer.digest), content=Stream(size=size, pieces=partial(plain, blob)))


def archive_entries(image: Image, layout: ImageLayout, names: Sequence[str]) -> Iterator[Entry]:
    """Give the files of an OCI image layout that is a `docker save` archive as well."""
    yield Entry(path="oci-layout", content=LAYOUT_FILE)
    yield Entry(path="index.json", content=named_index(image, names))
    yield Entry(path="manifest.json", content=_docker_manifest(image, names))
    for data in (image.config, image.manifest):
        yield Entry(path=_path(digest_of(data)), content=data)
    for digest in sorted({layer.digest for layer in image.layers}):
        yield Entry(path=_path(digest), content=layout.blob(digest))


def write_archive(image: Image, layout: ImageLayout, names: Sequence[str], file: Path) -> None:
    """Write the image as one tar file, in the place of an earlier one. Raises StoreError, DiskFullError."""
    file = output_path(file)
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".tmp", delete=False) as fresh:
            try:
                for chunk in tar_stream(archive_entries(image, layout, names)):
                    fresh.write(chunk)
                fresh.flush()
                os.fsync(fresh.fileno())
                Path(fresh.name).chmod(0o644)
                Path(fresh.name).rename(file)
            finally:
                Path(fresh.name).unlink(missing_ok=True)
        sync_folder(file.parent)


def write_layout(image: Image, layout: ImageLayout, names: Sequence[str], folder: Path) -> None:
    """Put the image into an OCI image layout, a new one or one that is there; blobs come first.

    Raises BuildError where the folder is something else, and DiskFullError.
    """
    with _opened(folder) as target:
        _copy(image, layout, target)
        target.add(image, names, layout.referrers(image.digest))


def write_index(whole: ImageIndex, layout: ImageLayout, names: Sequence[str], folder: Path) -> None:
    """Put the image of several platforms into an OCI image layout, as `write_layout` does with one."""
    with _opened(folder) as target:
        for image in whole.images:
            _copy(image, layout, target)
            target.add(image, (), layout.referrers(image.digest))
        target.add_index(whole.manifest, names)


@contextmanager
def _opened(folder: Path) -> Iterator[ImageLayout]:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_layout(folder))):
        raise BuildError(
            "it is there and is no OCI image layout", where=str(folder), hint="name a new folder after oci:"
        )
    target = ImageLayout(folder)
    with disk_errors(folder):
        target.blobs.mkdir(parents=True, exist_ok=True)
        yield target


def _copy(image: Image, layout: ImageLayout, target: ImageLayout) -> None:
    for layer in image.layers:
        _place(layout.blob(layer.digest), target.blob(layer.digest))


def _place(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    fresh = target.with_name(f".{target.name}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, fresh)
    fresh.rename(target)


def _is_layout(folder: Path) -> bool:
    return (folder / "oci-layout").is_file()


def _docker_manifest(image: Image, names: Sequence[str]) -> bytes:
    layers = [_path(layer.digest) for layer in image.layers]
    content = [{"Config": _path(image.id), "RepoTags": list(names), "Layers": layers}]
    return json.dumps(content, sort_keys=True).encode()


def _path(digest: str) -> str:
    return f"{_BLOBS}/{digest.removeprefix('sha256:')}"
