"""OCI image specification 1.1: configuration, manifest and image layout as bytes that never vary."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegen.layers import Layer
from imagegen.plan import WORKSPACE, ImagePlan
from imagegen.referrers import EMPTY, MANIFEST_TYPE, Referrer, Subject, blob_digest
from mirror.store import write_all, write_atomically

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"
# The first moment that zip files can tell, for everything: no clock goes into an image.
EPOCH = 315532800
CREATED = "1980-01-01T00:00:00Z"
# How many bytes a layer is before it is compressed, as an annotation.
UNPACKED = "io.lockstock.layer.unpacked"
# How many of the newest images of a name, for each platform, stay in a mirror.
KEPT = 3
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What a Dockerfile's image has from its base without a word.
_INHERITED = ("ExposedPorts", "StopSignal", "Volumes")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A manifest and what it points at; `size` is that of all its compressed layers."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest, by which registries know the image."""
        return digest_of(self.manifest)

    @property
    def id(self) -> str:
        """The digest of the configuration, by which the Docker engine knows the image."""
        return digest_of(self.config)

    @property
    def size(self) -> int:
        """Bytes of all compressed layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def architecture(self) -> str:
        """What it runs on, in OCI's words."""
        return str(json.loads(self.config)["architecture"])

    @property
    def subject(self) -> Subject:
        """What artifacts about the image point at."""
        return Subject(digest=self.digest, size=len(self.manifest))


def make_image(
    plan: ImagePlan, layers: Sequence[Layer], architecture: str, base: Mapping[str, Any] | None = None
) -> Image:
    """Make the image of these layers, from the lowest up; `architecture` is in OCI's words.

    `base` are the settings of a base image, which this one has too as far as it says nothing else.
    """
    config = as_json(_config(plan, layers, architecture, base or {}))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [_descriptor(layer) for layer in layers],
        "annotations": dict(plan.labels),
    }
    return Image(manifest=as_json(manifest), config=config, layers=tuple(layers))


def digest_of(data: bytes) -> str:
    """Give the digest of a blob as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """What a layout can do without: names of images and files of blobs; and the images that stay."""

    names: tuple[str, ...]
    kept: tuple[Image, ...]
    blobs: tuple[Path, ...]


class ImageLayout:
    """A folder in the form of the OCI image layout specification."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"

    def blob(self, digest: str) -> Path:
        """Say where the blob with this digest lies or would lie."""
        return self.blobs / digest.removeprefix("sha256:")

    def add(self, image: Image, names: Iterable[str], referrers: Iterable[Referrer] = ()) -> None:
        """Add an image, whose layers are there, under names; it is listed when it is whole.

        What refers to it is listed with it, in the place of what did so before.
        """
        artifacts = tuple(referrers)
        self._write_blobs([image.config, image.manifest, *_blobs(artifacts)])
        if not self._is_layout():
            write_atomically(self.root / "oci-layout", LAYOUT_FILE)
        fresh = {name: _entry(image, name) for name in names}
        others = [one for one in self._artifacts() if one.subject != image.digest]
        self._write_index(self._listed() | fresh, [*others, *artifacts])

    def attach(self, referrers: Iterable[Referrer]) -> None:
        """Add artifacts about images that are there."""
        fresh = {one.digest: one for one in (*self._artifacts(), *referrers)}
        self._write_blobs(_blobs(fresh.values()))
        self._write_index(self._listed(), fresh.values())

    def referrers(self, digest: str) -> tuple[Referrer, ...]:
        """Give the artifacts about the image with this digest, sorted by their own."""
        return tuple(one for one in self._artifacts() if one.subject == digest)

    def prune(self, keep: int) -> None:
        """Drop all but the newest images of each repository and platform, and what only they needed."""
        self.drop(self.surplus(keep))

    def surplus(self, keep: int, repositories: Collection[str] | None = None) -> Surplus:
        """Say what goes when the newest images of these repositories stay, or of all of them."""
        listed = self._listed()
        families = self._families(listed)
        dropped = {name for names in families for name in self._oldest(names, listed, keep)}
        if repositories is not None:
            dropped |= {name for name in listed if name.rpartition(":")[0] not in repositories}
        kept = {name: entry for name, entry in listed.items() if name not in dropped}
        images = [(entry, self.find(name)) for name, entry in kept.items()]
        needed = {str(entry["digest"]) for entry, _ in images}
        artifacts = tuple(one for one in self._artifacts() if one.subject in needed)
        for image in (image for _, image in images if image):
            needed |= {image.id, *(layer.digest for layer in image.layers)}
        for artifact in artifacts:
            needed |= {artifact.digest, artifact.blob_digest, digest_of(EMPTY)}
        blobs = sorted(self.blobs.iterdir()) if self.blobs.is_dir() else []
        return Surplus(
            names=tuple(sorted(dropped)),
            kept=tuple(image for _, image in images if image),
            blobs=tuple(blob for blob in blobs if f"sha256:{blob.name}" not in needed),
        )

    def drop(self, surplus: Surplus) -> None:
        """Drop names, and the blobs that nothing needs then; the list of images changes first."""
        if surplus.names:
            kept = {name: entry for name, entry in self._listed().items() if name not in surplus.names}
            needed = {str(entry["digest"]) for entry in kept.values()}
            self._write_index(kept, [one for one in self._artifacts() if one.subject in needed])
        for blob in surplus.blobs:
            blob.unlink()

    def add_index(self, manifest: bytes, names: Iterable[str]) -> None:
        """Add the index of images that are there under names."""
        digest = digest_of(manifest)
        write_atomically(self.blob(digest), manifest)
        entry = {"mediaType": INDEX_TYPE, "digest": digest, "size": len(manifest)}
        fresh = {name: {**entry, "annotations": {REFERENCE: name}} for name in names}
        self._write_index(self._listed() | fresh, self._artifacts())

    def _families(self, names: Iterable[str]) -> Iterable[list[str]]:
        """Sort names by repository and platform: what is built for one does not push out another."""
        found: dict[tuple[str, str], list[str]] = {}
        for name in names:
            image = self.find(name)
            platform = image.architecture if image else ""
            found.setdefault((name.rpartition(":")[0], platform), []).append(name)
        return found.values()

    def _oldest(self, names: Sequence[str], listed: Mapping[str, Any], keep: int) -> list[str]:
        """Give the names beyond the newest, by when their manifests were written."""
        digests = {name: str(listed[name]["digest"]) for name in names}
        return sorted(names, key=lambda name: (self._written(digests[name]), name), reverse=True)[keep:]

    def newest(self, names: Iterable[str]) -> str | None:
        """Give the name whose manifest was written last, if it is one of these."""
        listed = self.names()
        held = [name for name in names if name in listed]
        return max(held, key=lambda name: (self._written(listed[name]), name), default=None)

    def _written(self, digest: str) -> int:
        manifest = self.blob(digest)
        return manifest.stat().st_mtime_ns if manifest.exists() else 0

    def find(self, name: str) -> Image | None:
        """Give the image of that name, if it and its layers are there."""
        entry = self._listed().get(name)
        if entry is None:
            return None
        try:
            return self._read(str(entry["digest"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _read(self, digest: str) -> Image | None:
        manifest = self.blob(digest).read_bytes()
        content = json.loads(manifest)
        config = self.blob(content["config"]["digest"]).read_bytes()
        pairs = zip(content["layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True)
        layers = tuple(
            Layer(
                digest=d["digest"],
                diff_id=diff_id,
                size=d["size"],
                unpacked=int(d.get("annotations", {}).get(UNPACKED, 0)),
                media_type=d["mediaType"],
            )
            for d, diff_id in pairs
        )
        whole = all(self.blob(layer.digest).stat().st_size == layer.size for layer in layers)
        return Image(manifest=manifest, config=config, layers=layers) if whole else None

    def names(self) -> dict[str, str]:
        """Give the digests of the images by their names."""
        return {name: str(entry["digest"]) for name, entry in self._listed().items()}

    def _write_blobs(self, blobs: Iterable[bytes]) -> None:
        write_all(self.blobs, {digest_of(data).removeprefix("sha256:"): data for data in blobs})

    def _is_layout(self) -> bool:
        try:
            return (self.root / "oci-layout").read_bytes() == LAYOUT_FILE
        except FileNotFoundError:
            return False

    def _write_index(self, listed: Mapping[str, Mapping[str, Any]], referrers: Iterable[Referrer]) -> None:
        entries = [*listed.values(), *(one.descriptor() for one in referrers)]
        write_atomically(self.root / "index.json", index(entries))

    def _artifacts(self) -> tuple[Referrer, ...]:
        """Give all artifacts that are listed and there; the damaged ones are passed over."""
        digests = sorted(str(entry.get("digest")) for entry in self._index() if "artifactType" in entry)
        return tuple(
            found for digest in digests if _DIGEST.fullmatch(digest) and (found := self._artifact(digest))
        )

    def _artifact(self, digest: str) -> Referrer | None:
        try:
            manifest = self.blob(digest).read_bytes()
            named = blob_digest(manifest)
            found = Referrer(manifest=manifest, blob=self.blob(named).read_bytes())
        except (OSError, ValueError):
            return None
        return found if (found.digest, found.blob_digest) == (digest, named) else None

    def _listed(self) -> dict[str, dict[str, Any]]:
        named = ((entry.get("annotations"), entry) for entry in self._index())
        return {
            str(notes[REFERENCE]): entry
            for notes, entry in named
            if isinstance(notes, dict) and REFERENCE in notes
        }

    def _index(self) -> list[dict[str, Any]]:
        """Give the descriptors of the index; what is none is passed over."""
        try:
            entries = list(json.loads((self.root / "index.json").read_bytes())["manifests"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return []
        return [e for e in entries if isinstance(e, dict) and isinstance(e.get("digest"), str)]


def _blobs(referrers: Iterable[Referrer]) -> Iterator[bytes]:
    for one in referrers:
        yield from (one.manifest, one.blob, EMPTY)


def index(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Give an index of these descriptors: the images by name, then what refers to them."""
    ordered = sorted(entries, key=_place)
    return as_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": ordered})


def _place(entry: Mapping[str, Any]) -> tuple[bool, str, str]:
    name = str((entry.get("annotations") or {}).get(REFERENCE, ""))
    return (not name, name, str(entry["digest"]))


def describe(image: Image) -> dict[str, Any]:
    """Give what indexes list of an image."""
    return {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": len(image.manifest)}


def _entry(image: Image, name: str) -> dict[str, Any]:
    return {**describe(image), "annotations": {REFERENCE: name}}


def named_index(image: Image, names: Iterable[str]) -> bytes:
    """Give the index of a layout that holds one image under these names."""
    return index([_entry(image, name) for name in names])


def _config(
    plan: ImagePlan, layers: Sequence[Layer], architecture: str, base: Mapping[str, Any]
) -> dict[str, Any]:
    inherited = _variables(base)
    path = ":".join([*plan.path, inherited.get("PATH", _PATH)])
    variables = {**inherited, "PATH": path, **plan.variables}
    labels = {str(name): str(value) for name, value in (base.get("Labels") or {}).items()}
    return {
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": {
            **{name: base[name] for name in _INHERITED if base.get(name)},
            "User": plan.user,
            "Env": [f"{name}={value}" for name, value in variables.items()],
            **({"Entrypoint": list(plan.entrypoint)} if plan.entrypoint else {}),
            "Cmd": [plan.shell],
            "WorkingDir": WORKSPACE,
            "Labels": {**labels, **plan.labels, "org.opencontainers.image.version": plan.version},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [
            {"created": CREATED, "created_by": "imagegen", "comment": layer.comment} for layer in layers
        ],
    }


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    pairs = (str(line).partition("=") for line in settings.get("Env") or ())
    return {name: value for name, _, value in pairs}


def _descriptor(layer: Layer) -> dict[str, Any]:
    found = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    return {**found, "annotations": {UNPACKED: str(layer.unpacked)}} if layer.unpacked else found


def as_json(content: object) -> bytes:
    """Write JSON that is the same each time."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
