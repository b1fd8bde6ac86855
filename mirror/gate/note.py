"""Signed notes (C2SP signed-note, Ed25519) and checkpoints (C2SP tlog-checkpoint)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519 = b"\x01"
_DASH = "\N{EM DASH}"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NOTE_LIMIT = 1 << 20
_SIGNATURES = 100


class NoteError(ValueError):
    """A note is malformed, or not signed by the key."""


class ForeignKeyError(NoteError):
    """No signature of a note is by the key that is trusted."""


def key_id(name: str, public: bytes) -> bytes:
    """Give the four bytes that tell keys of one name apart."""
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name; the text form is `NAME+ID+KEY`."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read the text form. Raises NoteError."""
        name, identifier, encoded = _key_parts(text)
        key = _decode(encoded)
        if key[:1] != _ED25519 or len(key) != 33 or key_id(name, key[1:]).hex() != identifier:
            raise NoteError("not an Ed25519 verifier key")
        return cls(name, key[1:])

    def __str__(self) -> str:
        encoded = base64.b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{key_id(self.name, self.public).hex()}+{encoded}"

    def open(self, note: str) -> str:
        """Give the text of a note that this key signed. Raises NoteError and ForeignKeyError."""
        text, lines = _split(note)
        mine = key_id(self.name, self.public)
        for line in lines:
            name, signature = _signature(line)
            if name == self.name and signature[:4] == mine:
                try:
                    Ed25519PublicKey.from_public_bytes(self.public).verify(signature[4:], text.encode())
                except InvalidSignature as error:
                    raise NoteError("the signature does not fit the text") from error
                return text
        raise ForeignKeyError(f"not signed by {self.name}")


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with its name; the text form is `PRIVATE+KEY+NAME+ID+SEED`."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read the text form. Raises NoteError."""
        prefix = "PRIVATE+KEY+"
        if not text.startswith(prefix):
            raise NoteError("not a signer key")
        name, identifier, encoded = _key_parts(text.removeprefix(prefix))
        seed = _decode(encoded)
        if seed[:1] != _ED25519 or len(seed) != 33:
            raise NoteError("not an Ed25519 signer key")
        signer = cls(name, Ed25519PrivateKey.from_private_bytes(seed[1:]))
        if key_id(name, signer.public).hex() != identifier:
            raise NoteError("not an Ed25519 signer key")
        return signer

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Make a new key. Raises NoteError where the name has spaces or +."""
        _check_name(name)
        return cls(name, Ed25519PrivateKey.generate())

    def named(self, name: str) -> Signer:
        """Give the same key under another name, so that the notes of one log are none of another's."""
        _check_name(name)
        return Signer(name, self.key)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_key().public_bytes_raw()

    @property
    def verifier(self) -> Verifier:
        """The public key with the name."""
        return Verifier(self.name, self.public)

    def to_text(self) -> str:
        """Give the text form, which is secret."""
        encoded = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{key_id(self.name, self.public).hex()}+{encoded}"

    def sign(self, text: str) -> str:
        """Make a signed note of a text that ends with a newline."""
        signature = key_id(self.name, self.public) + self.key.sign(text.encode())
        return f"{text}\n{_DASH} {self.name} {base64.b64encode(signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log was at one size."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a note. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise NoteError("a checkpoint has three lines")
        origin, size, root = lines[:3]
        if not _SIZE.fullmatch(size) or not size.isascii():
            raise NoteError("the size of a checkpoint is a decimal number")
        hashed = _decode(root)
        if len(hashed) != 32:
            raise NoteError("the root of a checkpoint is a sha256")
        return cls(origin, int(size), hashed)

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def _key_parts(text: str) -> tuple[str, str, str]:
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise NoteError("not a key of a note")
    _check_name(parts[0])
    return parts[0], parts[1], parts[2]


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() for character in name) or not name.isprintable():
        raise NoteError("the name of a key has no spaces and no +")


def _split(note: str) -> tuple[str, list[str]]:
    if len(note) > _NOTE_LIMIT or any(ord(character) < 0x20 and character != "\n" for character in note):
        raise NoteError("not a note: too long, or with control characters")
    text, blank, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not blank or lines.pop() or not 0 < len(lines) <= _SIGNATURES:
        raise NoteError("not a note: text, an empty line, and signatures")
    return f"{text}\n", lines


def _signature(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise NoteError("not a line of a signature")
    _check_name(parts[1])
    signature = _decode(parts[2])
    if len(signature) < 5:
        raise NoteError("a signature is longer")
    return parts[1], signature


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("not base64") from error
    if base64.b64encode(decoded).decode() != text:
        raise NoteError("not the one way to write this in base64")
    return decoded
