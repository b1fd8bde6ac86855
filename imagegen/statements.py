"""Statements about images: in-toto statements v1, and the types of what evidence there is. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imagegen.errors import EvidenceError

STATEMENT = "application/vnd.in-toto+json"
CYCLONEDX = "application/vnd.cyclonedx+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
KINDS: Mapping[str, str] = {SBOM: "bill of materials", PROVENANCE: "provenance"}
"""What the types of predicates are called."""

PREDICATE = "in-toto.io/predicate-type"
"""The annotation of artifacts that hold a statement, or one in an envelope."""

_TYPE = "https://in-toto.io/Statement/v1"


def statement(name: str, digest: str, kind: str, predicate: object) -> bytes:
    """State something of the manifest with this digest; `kind` is the predicate's type."""
    algorithm, _, value = digest.partition(":")
    content = {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {algorithm: value}}],
        "predicateType": kind,
        "predicate": predicate,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def subject_name(data: bytes) -> str:
    """Say how a statement calls what it is about. Raises EvidenceError."""
    try:
        return str(json.loads(data)["subject"][0]["name"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise EvidenceError("it is no in-toto statement") from None


def predicate_of(data: bytes, digest: str) -> tuple[str, Mapping[str, Any]]:
    """Give the type and the content of what is stated of the manifest with this digest.

    Raises EvidenceError where it is no statement v1, or about something else.
    """
    algorithm, _, value = digest.partition(":")
    try:
        content = json.loads(data)
        if content["_type"] != _TYPE:
            raise EvidenceError(f"it is a statement of the type {content['_type']!r}")
        about = [subject["digest"].get(algorithm) for subject in content["subject"]]
        kind, predicate = str(content["predicateType"]), dict(content["predicate"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EvidenceError("it is no in-toto statement") from None
    if value not in about:
        raise EvidenceError(f"it is about another image than {digest}")
    return kind, predicate
