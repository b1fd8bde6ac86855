"""Envelopes and what they state: as the specifications say, by keys of two kinds, and nothing forged."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from imagegen.attestation import read_evidence, signatures
from imagegen.errors import EvidenceError, SigningKeyError
from imagegen.referrers import Referrer, Subject, make_referrer
from imagegen.signing import SigningKey, key_id, load_signing_key, load_verify_key, seal, unseal
from imagegen.statements import (
    CYCLONEDX,
    PREDICATE,
    PROVENANCE,
    SBOM,
    STATEMENT,
    predicate_of,
    statement,
)

ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
KEYS: dict[str, SigningKey] = {
    "ed25519": ED25519,
    "p256": ec.derive_private_key(7, ec.SECP256R1()),
    "p384": ec.derive_private_key(7, ec.SECP384R1()),
    "p521": ec.derive_private_key(7, ec.SECP521R1()),
}
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
SUBJECT = Subject(digest=f"sha256:{'a' * 64}", size=10)
BILL = {"bomFormat": "CycloneDX", "components": []}


def written(folder: Path, key: Any, locked: bytes = b"") -> Path:
    lock = serialization.BestAvailableEncryption(locked) if locked else serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, PKCS8, lock))
    (folder / "pub.pem").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return folder / "key.pem"


def evidence(subject: Subject = SUBJECT) -> tuple[Referrer, ...]:
    origin = statement("lockstock/dev", subject.digest, PROVENANCE, {"buildDefinition": {}})
    return (
        make_referrer(subject, CYCLONEDX, json.dumps(BILL).encode(), {}),
        make_referrer(subject, STATEMENT, origin, {PREDICATE: PROVENANCE}),
    )


class TestEnvelope:
    @pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
    def test_what_was_sealed_is_unsealed_and_always_the_same(self, key: SigningKey) -> None:
        envelope = seal(b"payload", STATEMENT, key)

        assert unseal(envelope, STATEMENT, key.public_key()) == b"payload"
        assert seal(b"payload", STATEMENT, key) == envelope

    def test_another_program_verifies_it(self, tmp_path: Path) -> None:
        """openssl, over the encoding that the specification prints."""
        written(tmp_path, ED25519)
        envelope = json.loads(seal(b"hello world", "http://example.com/HelloWorld", ED25519))
        (tmp_path / "message").write_bytes(b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")
        (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))

        command = "openssl pkeyutl -verify -rawin -pubin -inkey pub.pem -in message -sigfile sig"
        ended = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)

        assert ended.returncode == 0, ended.stderr
        assert base64.b64decode(envelope["payload"]) == b"hello world"
        assert envelope["signatures"][0]["keyid"] == key_id(ED25519.public_key())

    def test_another_key(self) -> None:
        envelope = seal(b"payload", STATEMENT, ED25519)
        for key in (KEYS["p256"], ed25519.Ed25519PrivateKey.from_private_bytes(b"1" * 32)):
            with pytest.raises(EvidenceError, match="no signature of it is by this key"):
                unseal(envelope, STATEMENT, key.public_key())

    @pytest.mark.parametrize("field", ["payload", "payloadType"])
    def test_changed(self, field: str) -> None:
        content = json.loads(seal(b"payload", STATEMENT, ED25519))
        content[field] = {"payload": base64.b64encode(b"another").decode(), "payloadType": "text/plain"}[
            field
        ]
        kind = content["payloadType"]

        with pytest.raises(EvidenceError, match="no signature of it is by this key"):
            unseal(json.dumps(content).encode(), kind, ED25519.public_key())

    def test_of_another_type(self) -> None:
        with pytest.raises(EvidenceError, match="holds 'text/plain'"):
            unseal(seal(b"payload", "text/plain", ED25519), STATEMENT, ED25519.public_key())

    def test_the_name_of_a_key_proves_nothing_and_hinders_nothing(self) -> None:
        content = json.loads(seal(b"payload", STATEMENT, ED25519))
        content["signatures"].insert(0, {"keyid": key_id(ED25519.public_key()), "sig": ""})
        content["signatures"][1]["keyid"] = "somebody else"

        assert unseal(json.dumps(content).encode(), STATEMENT, ED25519.public_key()) == b"payload"

    @given(
        st.binary(max_size=200)
        | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
    def test_noise(self, data: bytes) -> None:
        with pytest.raises(EvidenceError):
            unseal(data, STATEMENT, ED25519.public_key())


class TestKeys:
    @pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
    def test_files(self, tmp_path: Path, key: SigningKey) -> None:
        loaded = load_signing_key(written(tmp_path, key))

        assert key_id(load_verify_key(tmp_path / "pub.pem")) == key_id(loaded.public_key())

    def test_what_is_no_key(self, tmp_path: Path) -> None:
        (tmp_path / "noise").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        for load in (load_signing_key, load_verify_key):
            with pytest.raises(SigningKeyError, match="it holds no") as raised:
                load(tmp_path / "noise")
            assert "openssl genpkey" in raised.value.hint

    def test_of_another_kind(self, tmp_path: Path) -> None:
        written(tmp_path, rsa.generate_private_key(65537, 2048))
        with pytest.raises(SigningKeyError, match="no private key of Ed25519 or ECDSA"):
            load_signing_key(tmp_path / "key.pem")
        with pytest.raises(SigningKeyError, match="no public key of Ed25519 or ECDSA"):
            load_verify_key(tmp_path / "pub.pem")

    def test_locked(self, tmp_path: Path) -> None:
        with pytest.raises(SigningKeyError, match="locked with a password"):
            load_signing_key(written(tmp_path, ED25519, b"secret"))

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SigningKeyError, match="No such file"):
            load_signing_key(tmp_path / "key.pem")


class TestStatements:
    def test_of_another_image(self) -> None:
        data = statement("dev", SUBJECT.digest, PROVENANCE, {})

        assert predicate_of(data, SUBJECT.digest) == (PROVENANCE, {})
        with pytest.raises(EvidenceError, match="another image"):
            predicate_of(data, f"sha256:{'b' * 64}")

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"null", b'{"_type": "https://in-toto.io/Statement/v1"}', b"[" * 100_000]
    )
    def test_noise(self, data: bytes) -> None:
        with pytest.raises(EvidenceError):
            predicate_of(data, SUBJECT.digest)


class TestEvidence:
    def test_unsigned(self) -> None:
        found = read_evidence(SUBJECT.digest, evidence())

        assert found.sbom == BILL
        assert found.provenance == {"buildDefinition": {}}
        assert {(one.kind, one.signed, one.verified) for one in found.artifacts} == {
            ("provenance", False, None),
            ("bill of materials", False, None),
        }

    def test_a_signature_covers_the_bill_and_the_provenance(self) -> None:
        signed = signatures(SUBJECT, evidence(), ED25519)

        found = read_evidence(SUBJECT.digest, signed, ED25519.public_key())

        assert (found.sbom, found.provenance) == (BILL, {"buildDefinition": {}})
        assert [one.verified for one in found.artifacts] == [True, True]

    def test_with_a_key_only_what_is_signed_counts(self) -> None:
        """Somebody swaps the unsigned bill: it is not told."""
        forged = make_referrer(SUBJECT, CYCLONEDX, b'{"components": ["forged"]}', {})
        all_of_it = (forged, *signatures(SUBJECT, evidence(), ED25519))

        assert read_evidence(SUBJECT.digest, all_of_it, ED25519.public_key()).sbom == BILL

    def test_unsigned_with_a_key(self) -> None:
        with pytest.raises(EvidenceError, match="no bill of materials and no provenance"):
            read_evidence(SUBJECT.digest, evidence(), ED25519.public_key())

    def test_another_key(self) -> None:
        signed = (*evidence(), *signatures(SUBJECT, evidence(), ED25519))
        with pytest.raises(EvidenceError, match="signed by the key"):
            read_evidence(SUBJECT.digest, signed, KEYS["p256"].public_key())

    def test_half_of_it(self) -> None:
        signed = [
            one for one in signatures(SUBJECT, evidence(), ED25519) if one.annotations[PREDICATE] != SBOM
        ]
        with pytest.raises(EvidenceError, match="no bill of materials of this image"):
            read_evidence(SUBJECT.digest, signed, ED25519.public_key())

    def test_taken_from_another_image(self) -> None:
        other = Subject(digest=f"sha256:{'b' * 64}", size=10)
        stolen = [
            make_referrer(SUBJECT, one.artifact_type, one.blob, one.annotations)
            for one in signatures(other, evidence(other), ED25519)
        ]
        with pytest.raises(EvidenceError, match="signed by the key"):
            read_evidence(SUBJECT.digest, stolen, ED25519.public_key())

    def test_damaged_is_passed_over(self) -> None:
        noise = [
            make_referrer(SUBJECT, kind, b"[" * 9999, {}) for kind in (CYCLONEDX, STATEMENT, "text/plain")
        ]

        found = read_evidence(SUBJECT.digest, noise)

        assert (found.sbom, found.provenance, len(found.artifacts)) == (None, None, 3)

    def test_nothing_to_sign(self) -> None:
        with pytest.raises(EvidenceError, match="no evidence that could be signed"):
            signatures(SUBJECT, (), ED25519)
