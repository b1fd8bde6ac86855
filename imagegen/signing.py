"""Signatures over statements: DSSE envelopes (Dead Simple Signing Envelope 1.0) by Ed25519 or ECDSA keys."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from imagegen.errors import EvidenceError, SigningKeyError

MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
SigningKey = Ed25519PrivateKey | EllipticCurvePrivateKey
VerifyKey = Ed25519PublicKey | EllipticCurvePublicKey


def load_signing_key(file: Path) -> SigningKey:
    """Read a private key from a PEM file. Raises SigningKeyError."""
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except TypeError:
        raise SigningKeyError(
            "it is locked with a password", where=str(file), hint="unlock it with `openssl pkey -in FILE`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unfit(file, "private") from None
    if not isinstance(key, SigningKey):
        raise _unfit(file, "private")
    return key


def load_verify_key(file: Path) -> VerifyKey:
    """Read a public key from a PEM file. Raises SigningKeyError."""
    try:
        key = serialization.load_pem_public_key(_read(file))
    except (ValueError, UnsupportedAlgorithm):
        raise _unfit(file, "public") from None
    if not isinstance(key, VerifyKey):
        raise _unfit(file, "public")
    return key


def key_id(key: VerifyKey) -> str:
    """Name a key: the sha256 of its SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def seal(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """Put a document and its signature into an envelope. Equal input, equal bytes."""
    message = _encoded(payload, payload_type)
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(message)
    else:  # the nonce is that of RFC 6979
        signature = key.sign(message, ECDSA(_hash(key.curve.key_size), deterministic_signing=True))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()


def unseal(envelope: bytes, payload_type: str, key: VerifyKey) -> bytes:
    """Give the document of an envelope that the key has signed. Raises EvidenceError.

    The names of keys in it are hints that anybody may write: each signature is tried.
    """
    try:
        content: dict[str, Any] = json.loads(envelope)
        payload = base64.b64decode(content["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in content["signatures"]]
        said = str(content["payloadType"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EvidenceError("it is no signed envelope") from None
    if said != payload_type:
        raise EvidenceError(f"the envelope holds {said!r}, not {payload_type}")
    if not any(_verifies(signature, _encoded(payload, said), key) for signature in signatures):
        raise EvidenceError("no signature of it is by this key")
    return payload


def _encoded(payload: bytes, payload_type: str) -> bytes:
    """Give the pre-authentication encoding, which is what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _verifies(signature: bytes, message: bytes, key: VerifyKey) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ECDSA(_hash(key.curve.key_size)))
    except InvalidSignature:
        return False
    return True


def _hash(bits: int) -> hashes.HashAlgorithm:
    """Choose the hash that goes with a curve of this size (FIPS 186-5)."""
    return hashes.SHA256() if bits <= 256 else hashes.SHA384() if bits <= 384 else hashes.SHA512()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"the key cannot be read: {error.strerror}", where=str(file)) from error


def _unfit(file: Path, kind: str) -> SigningKeyError:
    return SigningKeyError(f"it holds no {kind} key of Ed25519 or ECDSA in PEM", where=str(file))
