"""Where bases that are images lie: in a folder of the OCI image layout, in a registry, in a Docker engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from imagegen.baseimages import LARGEST_DOCUMENT, BaseImage, Source, Wanted, bring, write_image
from imagegen.bases import alone
from imagegen.compression import plain
from imagegen.credentials import find_credentials
from imagegen.errors import BaseError, PushError
from imagegen.layers import Content, Layers
from imagegen.live import Progress
from imagegen.plan import Base
from imagegen.reference import Reference
from imagegen.spec import AnyBase, OciBase, RegistryBase
from mirror.config import Config
from mirror.store import write_atomically

if TYPE_CHECKING:
    from imagegen.engines.docker import DockerEngine
    from imagegen.registry import Repository

_NAME = "org.opencontainers.image.ref.name"
_CHUNK = 1 << 20
_LATEST = "latest"
# Where bases that are images lie, below the folder of all bases.
IMAGES = "images"


class LayoutSource:
    """An OCI image layout in a folder that somebody else made."""

    def __init__(self, base: OciBase) -> None:
        self._base = base

    def resolve(self, name: str) -> str:
        """Give the digest of the tag, or of the only image where none is named. Raises BaseError."""
        try:
            data = (self._base.path / "index.json").read_bytes()
            entries = json.loads(data)["manifests"] if len(data) <= LARGEST_DOCUMENT else []
            found = {str((e.get("annotations") or {}).get(_NAME)): str(e["digest"])
                     for e in entries if "artifactType" not in e}  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BaseError(
                f"it is no OCI image layout: {error}",
                where=str(self._base),
                hint="write oci:DIR or oci:DIR:TAG, DIR being a folder with index.json and blobs",
            ) from error
        digests = set(found.values())
        # Some write the whole reference where a tag is meant.
        fitting = {digest for key, digest in found.items() if name in (key, key.rpartition(":")[2])}
        chosen = fitting if name else digests
        if len(chosen) != 1:
            names = ", ".join(sorted(key for key in found if key != "None")) or "none that has a name"
            reason = f"it has no image {name!r}" if name else f"it has {len(digests)} images"
            raise BaseError(reason, where=str(self._base), hint=f"write oci:DIR:TAG; it has {names}")
        return chosen.pop()

    def read(self, digest: str, *, manifest: bool) -> Iterator[bytes]:
        """Give the bytes of a blob. Raises BaseError where it is not there."""
        path = self._base.path / "blobs" / "sha256" / digest.removeprefix("sha256:")
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise BaseError(f"{digest} cannot be read: {error.strerror}", where=str(self._base)) from error


class RegistrySource:
    """A repository of a registry."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def resolve(self, name: str) -> str:
        """Give the digest of what the tag stands for now. Raises BaseError."""
        with _pulling(str(self._repository.reference)):
            return f"sha256:{hashlib.sha256(self._manifest(name)).hexdigest()}"

    def read(self, digest: str, *, manifest: bool) -> Iterator[bytes]:
        """Give the bytes of a blob or a manifest. Raises BaseError."""
        with _pulling(str(self._repository.reference)):
            if manifest:
                yield self._manifest(digest)
            else:
                yield from self._repository.pieces(digest)

    def _manifest(self, name: str) -> bytes:
        found = self._repository.manifest(name)
        if found is None:
            raise BaseError(f"it has no {name}", where=str(self._repository.reference), hint="check the name")
        return found


def base_name(config: Config, base: AnyBase) -> str:
    """Give a base's name as it goes into locks and images: the same wherever the project lies."""
    if not isinstance(base, OciBase):
        return str(base)
    path = Path(os.path.relpath(base.path, config.file.parent)).as_posix()
    return f"oci:{path}:{base.tag}" if base.tag else f"oci:{path}"


def bring_base(
    base: OciBase | RegistryBase, name: str, pin: str | None, platform: str, folder: Path, progress: Progress
) -> BaseImage:
    """Give a base that is an image, for one platform in OCI's words; by its pin where it has one.

    Its layers say in the image that they are of `name`, which is therefore that of `base_name`.
    Raises BaseError.
    """
    if isinstance(base, OciBase):
        source: AbstractContextManager[Source] = nullcontext(LayoutSource(base))
        tag = base.tag
    else:
        reference = Reference.parse_pinned(base.reference)
        source, tag = _registry(reference), reference.digest or reference.tag or _LATEST
    return bring(Wanted(name=name, tag=pin or tag, platform=platform), lambda: source, folder, progress)


def export_base(
    engine: DockerEngine, base: Base, platform: str, folder: Path, progress: Progress
) -> BaseImage:
    """Give an image of the Docker engine as a base; it is taken out once. Raises BaseError."""
    noted = folder / f"docker-{base.digest.removeprefix('sha256:')}"
    if not _is_noted(noted, folder):
        with alone(folder):
            if not _is_noted(noted, folder):  # another run may have done it while this one waited
                progress.step(f"taking the base {base.name} out of the Docker engine (once)")
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.writelines(engine.save(base.reference))
                    file.seek(0)
                    write_atomically(noted, _converted(file, folder, base).encode())
    wanted = Wanted(name=f"docker:{base.name}", tag=noted.read_text(), platform=platform)
    return bring(wanted, lambda: nullcontext(_Nowhere(base)), folder, progress)


def _is_noted(noted: Path, folder: Path) -> bool:
    return noted.exists() and _is_held(noted.read_text(), folder)


def _is_held(digest: str, folder: Path) -> bool:
    """Say whether all blobs of an image are there."""
    blobs = Layers(folder).blobs
    try:
        manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
        parts = [manifest["config"], *manifest["layers"]]
        return all(
            (blobs / part["digest"].removeprefix("sha256:")).stat().st_size == part["size"] for part in parts
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _Nowhere:
    """The source of a base that is held already."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def resolve(self, name: str) -> str:
        raise BaseError(f"{name} was lost while it was used", where=self._base.name, hint="run again")

    def read(self, digest: str, *, manifest: bool) -> Iterator[bytes]:
        self.resolve(digest)
        yield b""


def _converted(file: IO[bytes], folder: Path, base: Base) -> str:
    """Turn what `docker save` gives into an OCI image among our blobs; give its manifest's digest."""
    layers = Layers(folder)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            described: Mapping[str, Any] = json.loads(_member(archive, "manifest.json"))[0]
            config = _member(archive, str(described["Config"]))
            diff_ids = json.loads(config)["rootfs"]["diff_ids"]
            made = []
            for path, diff_id in zip(described["Layers"], diff_ids, strict=True):
                with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp") as whole:
                    _copy(archive, str(path), whole)
                    make = partial(Content, tar=plain(Path(whole.name)), facts={})
                    made.append(layers.get(["image", diff_id], base.name, make)[0])
    except (tarfile.TarError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BaseError(f"what the engine gives is no image: {error}", where=base.name) from error
    return write_image(folder, config, made)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member.read(LARGEST_DOCUMENT)


def _copy(archive: tarfile.TarFile, name: str, target: Any) -> None:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    while chunk := member.read(_CHUNK):
        target.write(chunk)
    target.flush()


@contextmanager
def _registry(reference: Reference) -> Iterator[Source]:
    from imagegen.registry import Repository  # its client takes long to import

    with (
        _pulling(str(reference)),
        Repository(reference, find_credentials(reference.registry), actions="pull") as repository,
    ):
        yield RegistrySource(repository)


@contextmanager
def _pulling(where: str) -> Iterator[None]:
    """Turn what a registry's client raises into an error of a base."""
    try:
        yield
    except PushError as error:
        reason = re.sub(r"^\w+Error: ", "", error.reason)
        raise BaseError(
            f"the registry does not give it: {reason}",
            where=where,
            hint=f"check the name and the network, and `docker login {where.partition('/')[0]}`",
        ) from error
