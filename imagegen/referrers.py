"""Artifacts that say something of an image and point at it: OCI image specification 1.1, `subject`. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The manifest that an artifact is about: its digest, size in bytes and media type."""

    digest: str
    size: int
    media_type: str = MANIFEST_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """An artifact's manifest and the one blob that it has."""

    manifest: bytes
    blob: bytes

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return _digest(self.manifest)

    @property
    def blob_digest(self) -> str:
        """The digest of the blob."""
        return _digest(self.blob)

    @property
    def artifact_type(self) -> str:
        """What kind of artifact it is, as a media type."""
        return str(json.loads(self.manifest)["artifactType"])

    @property
    def annotations(self) -> Mapping[str, str]:
        """What its manifest says of it."""
        return {str(k): str(v) for k, v in (json.loads(self.manifest).get("annotations") or {}).items()}

    @property
    def subject(self) -> str:
        """The digest of the manifest that it is about."""
        return str(json.loads(self.manifest)["subject"]["digest"])

    def descriptor(self) -> dict[str, Any]:
        """Give what indexes of artifacts list."""
        return {
            "mediaType": MANIFEST_TYPE,
            "artifactType": self.artifact_type,
            "digest": self.digest,
            "size": len(self.manifest),
            "annotations": dict(self.annotations),
        }


def make_referrer(subject: Subject, kind: str, blob: bytes, annotations: Mapping[str, str]) -> Referrer:
    """Make the artifact of a media type that holds these bytes and is about `subject`."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": kind,
        "config": {"mediaType": EMPTY_TYPE, "digest": _digest(EMPTY), "size": len(EMPTY)},
        "layers": [{"mediaType": kind, "digest": _digest(blob), "size": len(blob)}],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
        "annotations": dict(annotations),
    }
    return Referrer(manifest=json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode(), blob=blob)


def blob_digest(manifest: bytes, subject: str | None = None) -> str:
    """Say which blob an artifact's manifest names.

    Raises ValueError where it is no manifest of an artifact with one blob about something, which is
    that of the digest `subject` if it is given.
    """
    try:
        content = json.loads(manifest)
        (layer,) = content["layers"]
        about, blob = str(content["subject"]["digest"]), str(layer["digest"])
        if not isinstance(content["artifactType"], str) or about != (subject or about):
            raise ValueError("it is about something else")
        if not isinstance(content.get("annotations") or {}, dict):
            raise ValueError("its annotations are no object")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is no artifact with one blob") from error
    if not _DIGEST.fullmatch(blob):
        raise ValueError(f"{blob!r} is no digest")
    return blob


def fallback_tag(digest: str) -> str:
    """Give the tag under which registries without an API for referrers keep their index.

    OCI distribution specification 1.1, "Referrers Tag Schema".
    """
    return digest.replace(":", "-")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
