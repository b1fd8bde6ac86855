"""One image for several platforms: an OCI image index, which is the same bytes for the same images. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from imagegen.oci import INDEX_TYPE, Image, as_json, describe, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """One image for several platforms: an index of their images, in the order of the platforms' names."""

    images: tuple[Image, ...]

    @property
    def manifest(self) -> bytes:
        """The index itself."""
        described = [(image.architecture, describe(image)) for image in self.images]
        entries = [
            {**entry, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, entry in sorted(described, key=lambda pair: pair[0])
        ]
        return as_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})

    @property
    def digest(self) -> str:
        """The digest of the index, by which registries know it."""
        return digest_of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all compressed layers; those that several have count once."""
        return sum({layer.digest: layer.size for image in self.images for layer in image.layers}.values())
