"""The registries of the user's own npm: npm is asked, not imitated, for all that it tells.

What it does not tell are credentials; these are read from its configuration files.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from lockfiles.model import Ecosystem
from mirror.config import UpstreamSpec
from mirror.errors import UpstreamError
from mirror.upstream.questions import ask
from mirror.upstream.settings import UpstreamSettings

_SCOPE = re.compile(r"(@[^:/]+):registry")
_SECRET = re.compile(
    r"(?P<place>//[^=\s]*/):(?P<kind>_authToken|_auth|username|_password)\s*=\s*(?P<value>.*)"
)
_VARIABLE = re.compile(r"\$\{([^}]+)\}")


def npm_settings(specs: Collection[UpstreamSpec]) -> UpstreamSettings:
    """Ask npm for its settings. Raises UpstreamError.

    `[[upstream]]` of lockstock.toml is for Python's indexes: npm has a setting for each scope. Where
    there is no npm there is no registry either, which only locks that leave places out need.
    """
    said = _ask()
    if said is None:
        return UpstreamSettings(indexes=())
    registry = str(said.get("registry") or "")
    scopes = [
        UpstreamSpec(index=str(value), packages=(f"{match[1]}/*",))
        for key, value in sorted(said.items())
        if (match := _SCOPE.fullmatch(key))
    ]
    named = [registry, *(scope.index for scope in scopes)]
    return UpstreamSettings(
        indexes=(registry,) if registry else (),
        pinned=tuple(scopes),
        cert=said.get("cafile") or None,
        trusted_hosts=() if said.get("strict-ssl", True) else tuple(_hosts(named)),
        proxy=_proxy(said),
        timeout=min(60.0, float(said.get("fetch-timeout", 60_000)) / 1000),
        retries=max(3, int(said.get("fetch-retries", 2))),
        authorization=_authorization(said),
    )


def _ask() -> dict[str, Any] | None:
    try:
        answer = ask(Ecosystem.NPM)
    except FileNotFoundError:
        return None
    try:
        said = json.loads(answer.stdout)
        if isinstance(said, dict):
            return said
    except ValueError:
        pass
    reason = answer.stderr.strip().splitlines()[-1:] or ["no answer"]
    raise UpstreamError(
        f"npm cannot tell its settings: {reason[0]}", hint="`npm config list` shows what it reads"
    )


def _hosts(urls: Collection[str]) -> Iterator[str]:
    yield from sorted({host for url in urls if (host := urlsplit(url).hostname)})


def _proxy(said: Mapping[str, Any]) -> str | None:
    """Give a proxy that npm alone is set to; the environment's, with its exceptions, are known anyway."""
    proxy = said.get("https-proxy") or said.get("proxy") or None
    return None if proxy is None or proxy in getproxies().values() else str(proxy)


def _authorization(said: Mapping[str, Any]) -> dict[str, str]:
    """Read the credentials of npm's files, the later one's first, as Authorization headers by place."""
    secrets: dict[str, dict[str, str]] = {}
    for file in (said.get("globalconfig"), said.get("userconfig"), ".npmrc"):
        for match in _SECRET.finditer(_text(Path(str(file)))) if file else ():
            secrets.setdefault(match["place"], {})[match["kind"]] = _value(match["value"])
    return {place: header for place, kinds in secrets.items() if (header := _header(kinds))}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _value(text: str) -> str:
    """Fill in variables of the environment, as npm does; one that is not set stays as it is."""
    plain = text.strip().strip("\"'")
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), plain)


def _header(kinds: Mapping[str, str]) -> str | None:
    if token := kinds.get("_authToken"):
        return f"Bearer {token}"
    if secret := kinds.get("_auth"):
        return f"Basic {secret}"
    if "username" in kinds and "_password" in kinds:
        try:
            password = b64decode(kinds["_password"], validate=True)
        except ValueError:
            return None
        return f"Basic {b64encode(kinds['username'].encode() + b':' + password).decode('ascii')}"
    return None
