"""Evidence of an image, signed and read: which statements there are, and which key stands for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from imagegen.errors import EvidenceError
from imagegen.referrers import Referrer, Subject, make_referrer
from imagegen.signing import MEDIA_TYPE as ENVELOPE
from imagegen.signing import SigningKey, VerifyKey, key_id, seal, unseal
from imagegen.statements import (
    CYCLONEDX,
    KINDS,
    PREDICATE,
    PROVENANCE,
    SBOM,
    STATEMENT,
    predicate_of,
    statement,
    subject_name,
)

KEY = "io.lockstock.keyid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact about an image: what it is, its digest, bytes of its content, and who signed it.

    `verified` is whether the key that was asked for did; None where none was, or it is not signed.
    """

    kind: str
    digest: str
    size: int
    signed: bool
    verified: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is said of an image: its bill of materials (CycloneDX) and its provenance (SLSA v1)."""

    artifacts: tuple[Artifact, ...] = ()
    sbom: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None


def signatures(subject: Subject, referrers: Iterable[Referrer], key: SigningKey) -> tuple[Referrer, ...]:
    """Sign the unsigned evidence of an image. Raises EvidenceError where there is none."""
    by_type = {one.artifact_type: one.blob for one in referrers}
    try:
        origin, bill = by_type[STATEMENT], by_type[CYCLONEDX]
    except KeyError:
        raise EvidenceError(
            "it has no evidence that could be signed", where=subject.digest, hint="build the image again"
        ) from None
    name = subject_name(origin)
    stated = {PROVENANCE: origin, SBOM: statement(name, subject.digest, SBOM, json.loads(bill))}
    known = key_id(key.public_key())
    return tuple(
        make_referrer(subject, ENVELOPE, seal(data, STATEMENT, key), {PREDICATE: kind, KEY: known})
        for kind, data in stated.items()
    )


def read_evidence(digest: str, referrers: Iterable[Referrer], key: VerifyKey | None = None) -> Evidence:
    """Read the evidence of the image with this digest.

    With a key, only what it has signed counts: raises EvidenceError where a bill of materials or
    a provenance signed by it is missing. Without one, what cannot be read is passed over.
    """
    found: dict[str, Mapping[str, Any]] = {}
    artifacts = []
    for one in sorted(referrers, key=lambda one: (one.artifact_type == ENVELOPE, one.digest)):
        stated = _stated(one, digest, key)
        if stated:
            found.setdefault(*stated)
        artifacts.append(_artifact(one, key, verified=bool(stated)))
    missing = [name for kind, name in KINDS.items() if kind not in found]
    if key and missing:
        raise EvidenceError(
            f"no {' and no '.join(missing)} of this image is signed by the key {key_id(key)}",
            where=digest,
            hint="push it with --sign-key, or ask who built it for the right key",
        )
    return Evidence(artifacts=tuple(artifacts), sbom=found.get(SBOM), provenance=found.get(PROVENANCE))


def _stated(one: Referrer, digest: str, key: VerifyKey | None) -> tuple[str, Mapping[str, Any]] | None:
    """Give what an artifact states, as far as it counts."""
    try:
        if one.artifact_type == ENVELOPE:
            return predicate_of(unseal(one.blob, STATEMENT, key), digest) if key else None
        if key:
            return None
        if one.artifact_type == STATEMENT:
            return predicate_of(one.blob, digest)
        return (SBOM, dict(json.loads(one.blob))) if one.artifact_type == CYCLONEDX else None
    except (EvidenceError, ValueError, TypeError, RecursionError):
        return None


def _artifact(one: Referrer, key: VerifyKey | None, *, verified: bool) -> Artifact:
    signed = one.artifact_type == ENVELOPE
    stated = SBOM if one.artifact_type == CYCLONEDX else one.annotations.get(PREDICATE, "")
    return Artifact(
        kind=KINDS.get(stated, one.artifact_type),
        digest=one.digest,
        size=len(one.blob),
        signed=signed,
        verified=verified if key and signed else None,
    )
