"""What an image is made of, as its manifest, its configuration and its evidence say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imagegen.attestation import Artifact, Evidence, read_evidence
from imagegen.errors import PushError
from imagegen.oci import digest_of
from imagegen.signing import VerifyKey
from imagegen.sources import Source, read_manifest

_PROPERTY = "lockstock:"
_LABELS = "org.opencontainers.image."


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedLayer:
    """A layer: its digest, compressed bytes, and what its history says."""

    digest: str
    size: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A package as the bill of materials lists it."""

    name: str
    version: str
    purl: str
    use: str
    layer: str
    file: str
    sha256: str
    locks: tuple[str, ...]
    licences: tuple[str, ...]

    @property
    def ecosystem(self) -> str:
        """The type of its package URL: pypi, npm or deb."""
        return self.purl.removeprefix("pkg:").partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """An image; `packages` is None where nothing says what is in it, `size` that of all layers.

    `overhead` are the bytes of manifest and configuration.
    """

    reference: str
    digest: str
    id: str
    platform: str
    size: int
    overhead: int
    base: str
    base_digest: str
    target: str
    locks: Mapping[str, str]
    snapshot: str
    lockstock: str
    layers: tuple[StackedLayer, ...]
    packages: tuple[Item, ...] | None
    evidence: tuple[Artifact, ...]

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        return asdict(self)


def inspect(source: Source, name: str, text: str, key: VerifyKey | None = None) -> Inspection:
    """Look at an image that `source` calls `name` and the user `text`.

    With a key, its evidence has to be signed by it, and only what is signed is told. Raises
    NotBuiltError, PushError and EvidenceError.
    """
    data, manifest = read_manifest(source, name, text)
    digest = digest_of(data)
    try:
        config_data = source.blob(str(manifest["config"]["digest"])) or b""
        config = dict(json.loads(config_data))
        layers = _layers(manifest, config)
        labels = {str(k): str(v) for k, v in ((config.get("config") or {}).get("Labels") or {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PushError("its configuration cannot be read", where=text) from None
    evidence = read_evidence(digest, source.referrers(digest), key)
    origin = _origin(evidence)
    return Inspection(
        reference=text,
        digest=digest,
        id=digest_of(config_data),
        platform=f"{config.get('os', '')}/{config.get('architecture', '')}",
        size=sum(layer.size for layer in layers),
        overhead=len(data) + len(config_data),
        base=labels.get(f"{_LABELS}base.name", ""),
        base_digest=labels.get(f"{_LABELS}base.digest", ""),
        target=labels.get("io.lockstock.target", ""),
        locks=_locks(labels),
        snapshot=origin.get("snapshot", ""),
        lockstock=origin.get("lockstock", ""),
        layers=layers,
        packages=_packages(evidence),
        evidence=evidence.artifacts,
    )


def _layers(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[StackedLayer, ...]:
    """Join the layers with the history; entries of that which made no layer are passed over."""
    history = [one for one in config.get("history") or [] if not one.get("empty_layer")]
    comments = [str(one.get("comment") or one.get("created_by") or "") for one in history]
    comments += [""] * (len(manifest["layers"]) - len(comments))
    return tuple(
        StackedLayer(digest=str(layer["digest"]), size=int(layer["size"]), comment=comment)
        for layer, comment in zip(manifest["layers"], comments, strict=False)
    )


def _locks(labels: Mapping[str, str]) -> dict[str, str]:
    prefix = "io.lockstock.lock."
    return {name.removeprefix(prefix): value for name, value in labels.items() if name.startswith(prefix)}


def _origin(evidence: Evidence) -> dict[str, str]:
    """Give the snapshot and the version of lockstock that the provenance names."""
    try:
        predicate = evidence.provenance or {}
        inputs = predicate["buildDefinition"]["resolvedDependencies"]
        builder = predicate["runDetails"]["builder"]
        (snapshot,) = (str(one["digest"]["sha256"]) for one in inputs if one["name"] == "snapshot")
        return {"snapshot": snapshot, "lockstock": str(builder["version"]["lockstock"])}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _packages(evidence: Evidence) -> tuple[Item, ...] | None:
    if evidence.sbom is None:
        return None
    try:
        found = [_item(component) for component in evidence.sbom.get("components") or []]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return tuple(sorted(found, key=lambda item: (item.purl, item.file)))


def _item(component: Mapping[str, Any]) -> Item:
    properties = [
        (str(one["name"]).removeprefix(_PROPERTY), str(one["value"]))
        for one in component.get("properties") or []
    ]
    only = dict(properties)
    hashes = [str(one["content"]) for one in component.get("hashes") or [] if one["alg"] == "SHA-256"]
    group = (
        f"{component['group']}/"
        if str(component["purl"]).startswith("pkg:npm/") and component.get("group")
        else ""
    )
    return Item(
        name=f"{group}{component['name']}",
        version=str(component.get("version", "")),
        purl=str(component["purl"]),
        use=only.get("use", ""),
        layer=only.get("layer", ""),
        file=only.get("file", ""),
        sha256="".join(hashes[:1]),
        locks=tuple(sorted(value for name, value in properties if name == "lock")),
        licences=tuple(_licences(component.get("licenses") or [])),
    )


def _licences(licences: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in licences:
        licence = one.get("license") or {}
        yield str(one.get("expression") or licence.get("id") or licence.get("name") or "")
