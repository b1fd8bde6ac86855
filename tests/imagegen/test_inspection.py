"""What an image says of itself may be anything: it is told, or refused in a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.difference import difference
from imagegen.errors import PushError
from imagegen.inspection import inspect
from imagegen.oci import digest_of
from imagegen.referrers import Referrer, Subject, make_referrer
from imagegen.statements import CYCLONEDX, PROVENANCE, STATEMENT, statement
from lockfiles.errors import LockstockError

KEYS = st.sampled_from(
    ["layers", "config", "digest", "size", "history", "comment", "Labels", "components", "purl", "name",
     "licenses", "license", "properties", "value", "hashes", "alg", "content", "buildDefinition",
     "resolvedDependencies", "runDetails", "builder", "version", "group", "manifests", "platform"]
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(float("inf"))
    | st.text(max_size=5)
    | st.just("pkg:npm/a"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


class Told:
    """A source that says what it is told to."""

    def __init__(self, manifest: Any, config: Any, bill: Any, predicate: Any) -> None:
        self._config = json.dumps(config).encode()
        self._manifest = json.dumps(manifest).encode()
        subject = Subject(digest=digest_of(self._manifest), size=len(self._manifest))
        origin = statement("dev", subject.digest, PROVENANCE, predicate)
        self._referrers = (
            make_referrer(subject, CYCLONEDX, json.dumps(bill).encode(), {}),
            make_referrer(subject, STATEMENT, origin, {}),
        )

    def manifest(self, name: str) -> bytes | None:
        return self._manifest

    def blob(self, digest: str) -> bytes | None:
        return self._config

    def referrers(self, digest: str) -> tuple[Referrer, ...]:
        return self._referrers


@given(OBJECTS, OBJECTS, OBJECTS, OBJECTS)
def test_anything(manifest: Any, config: Any, bill: Any, predicate: Any) -> None:
    good = {"config": {"digest": "sha256:1"}, "layers": [{"digest": "sha256:2", "size": 3}]}
    for stated in (manifest, good | {"annotations": manifest}):
        try:
            found = inspect(Told(stated, config, bill, predicate), "latest", "dev")
        except LockstockError:
            continue
        assert json.dumps(found.to_json())
        assert difference(found, found).fetch == 0


def test_a_size_without_an_end() -> None:
    manifest = {"config": {"digest": "sha256:1"}, "layers": [{"digest": "sha256:2", "size": float("inf")}]}

    with pytest.raises(PushError, match="its configuration cannot be read"):
        inspect(Told(manifest, {}, {}, {}), "latest", "dev")
