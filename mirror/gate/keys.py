"""The gate's own secrets: the key that signs its logs, the keys of tokens, and whom they are revoked for."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.gate.errors import GateError
from mirror.gate.note import NoteError, Signer, Verifier
from mirror.store import write_atomically

OVERLAP = 7 * 24 * 3600
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """A key of tokens; `retired` is when it ends to be taken, in seconds since 1970."""

    id: str
    secret: bytes
    retired: int | None = None


@dataclass(frozen=True, slots=True)
class GateHome:
    """The folder of a mirror in which its gate keeps keys and logs."""

    root: Path

    @property
    def logs(self) -> Path:
        """Where the logs lie, one for each gate that was started."""
        return self.root / "logs"

    def log(self, name: str) -> Path:
        """Say where the log of that name lies."""
        return self.logs / f"{name}.jsonl"

    def signer(self) -> Signer:
        """Give the key that signs, made at first use. Raises GateError."""
        path = self.root / "log.key"
        try:
            with self._alone():
                if not path.exists():
                    host = re.sub(r"[^a-z0-9.-]", "-", socket.gethostname().lower())
                    self._write_secret(path, Signer.generate(f"{host}/gate/{secrets.token_hex(4)}").to_text())
                signer = Signer.parse(path.read_text(encoding="utf-8").strip())
                if not (self.root / "log.vkey").exists():
                    write_atomically(self.root / "log.vkey", f"{signer.verifier}\n".encode())
            return signer
        except (OSError, NoteError) as error:
            raise GateError(f"the log's key cannot be used: {error}", where=str(path)) from error

    def verifier(self) -> Verifier:
        """Give the public key of this gate. Raises GateError."""
        path = self.root / "log.vkey"
        try:
            return Verifier.parse(path.read_text(encoding="utf-8"))
        except (OSError, NoteError) as error:
            raise GateError(
                f"the log's public key cannot be read: {error}", where=str(path), hint="give it with --key"
            ) from error

    def token_keys(self, now: float) -> tuple[TokenKey, ...]:
        """Give the keys that are taken now, the newest last. Raises GateError."""
        path = self.root / "token.keys"
        if not path.exists():
            return ()
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            keys = tuple(
                TokenKey(id=row["id"], secret=bytes.fromhex(row["secret"]), retired=row["retired"])
                for row in rows
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GateError("the keys of tokens cannot be read", where=str(path)) from error
        return tuple(key for key in keys if key.retired is None or now < key.retired)

    def newest_key(self, now: float) -> TokenKey:
        """Give the key to mint with, made at first use."""
        keys = self.token_keys(now)
        return keys[-1] if keys and keys[-1].retired is None else self.rotate(now)

    def rotate(self, now: float, overlap: int = OVERLAP) -> TokenKey:
        """Make a new key; the ones before it are taken for `overlap` seconds more."""
        fresh = TokenKey(id=secrets.token_hex(4), secret=secrets.token_bytes(_KEY_BYTES))
        retired = int(now) + overlap
        with self._alone():
            kept = [
                TokenKey(id=k.id, secret=k.secret, retired=min(k.retired or retired, retired))
                for k in self.token_keys(now)
            ]
            rows = [{"id": k.id, "secret": k.secret.hex(), "retired": k.retired} for k in (*kept, fresh)]
            self._write_secret(self.root / "token.keys", json.dumps(rows, indent=1))
        return fresh

    def revoked(self) -> frozenset[str]:
        """Give the tasks whose tokens are taken no more. Raises GateError."""
        path = self.root / "revoked"
        try:
            return frozenset(path.read_text(encoding="utf-8").split()) if path.exists() else frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise GateError(f"cannot be read: {error}", where=str(path)) from error

    def revoke(self, task: str) -> None:
        """Take the tokens of a task no more."""
        with self._alone():
            tasks = sorted({*self.revoked(), task})
            write_atomically(self.root / "revoked", "".join(f"{one}\n" for one in tasks).encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process change what lies here for the block; the kernel ends it if this one dies."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write_secret(self, path: Path, text: str) -> None:
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(descriptor)
        fresh.rename(path)
