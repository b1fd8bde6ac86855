"""What registries are told and trusted by: the secrets that `docker login` left, and their authorities."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen.errors import PushError

if TYPE_CHECKING:
    import ssl

_LIMIT = 30
# The user that docker's credential helpers give with an identity token.
_IDENTITY = "<token>"

# Where docker keeps what it trusts for one registry.
CERTIFICATES = Path("/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a secret, which no message shows; with the user `<token>` it is an identity token."""

    user: str
    secret: str = field(repr=False)

    @property
    def is_identity(self) -> bool:
        """Whether the secret is a refresh token of the registry's token service."""
        return self.user == _IDENTITY

    @property
    def basic(self) -> tuple[str, str] | None:
        """User and password, where they are that."""
        return None if self.is_identity else (self.user, self.secret)


def find_credentials(registry: str, folder: Path | None = None) -> Credentials | None:
    """Look a registry (host and port) up in docker's configuration. Raises PushError where it is broken."""
    file = (folder or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")) / "config.json"
    if not file.exists():
        return None
    try:
        config = json.loads(file.read_bytes())
        helper = (config.get("credHelpers") or {}).get(registry) or config.get("credsStore")
        found = _from_helper(helper, registry) if helper else None
        return found or _from_file(config.get("auths") or {}, registry)
    except (ValueError, TypeError, AttributeError, KeyError, OSError, subprocess.SubprocessError) as error:
        raise PushError(
            "docker's configuration, or a helper that it names, cannot be used",
            where=str(file),
            hint="run `docker login` again",
        ) from error


def _from_file(auths: Mapping[str, Any], registry: str) -> Credentials | None:
    entry = auths.get(registry) or auths.get(f"https://{registry}") or {}
    if entry.get("identitytoken"):
        return Credentials(_IDENTITY, str(entry["identitytoken"]))
    if not entry.get("auth"):
        return None
    user, _, secret = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    return Credentials(user, secret)


def _from_helper(helper: str, registry: str) -> Credentials | None:
    """Ask `docker-credential-HELPER`; one that knows nothing of the registry fails."""
    if "/" in helper:
        raise ValueError("the helper's name is a path")
    ended = subprocess.run(
        [f"docker-credential-{helper}", "get"],
        input=registry,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if ended.returncode:
        return None
    answer = json.loads(ended.stdout)
    return Credentials(str(answer["Username"]), str(answer["Secret"])) if answer.get("Secret") else None


def trust(registry: str) -> ssl.SSLContext:
    """Trust what this host does, and what docker does for this registry. Raises PushError."""
    import ssl

    context = ssl.create_default_context()
    authority = CERTIFICATES / registry / "ca.crt"
    if authority.is_file():
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise PushError(
                f"it holds no certificates that can be read: {error}",
                where=str(authority),
                hint="put the registry's CA there in PEM, or remove the file",
            ) from error
    return context
