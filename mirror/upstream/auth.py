"""Credentials for upstreams: each goes to the place it was given for, and nowhere else."""

from __future__ import annotations

import asyncio
import subprocess
from base64 import b64encode
from collections.abc import Iterable, Mapping
from itertools import takewhile
from netrc import NetrcParseError, netrc

from yarl import URL

_Credentials = tuple[str, str]
_Origin = tuple[str, str | None, int | None]
_KEYRING_LIMIT = 30  # seconds


class UpstreamAuth:
    """Finds the credentials of a URL, in this order.

    What npm's configuration gives for the longest prefix; what the URL itself carries; those of the
    index on this host that lies nearest, if it has some; netrc; and, once the host asked for some and none
    of these were there or right, the user's keyring, as pip does.
    """

    def __init__(self, urls: Iterable[str], authorization: Mapping[str, str]) -> None:
        self._headers = sorted(authorization.items(), key=lambda item: -len(item[0]))
        self._indexes = [URL(url) for url in urls]
        self._keyring: dict[_Origin, _Credentials | None] = {}
        self._asking = asyncio.Lock()
        try:
            self._netrc: netrc | None = netrc()
        except (OSError, NetrcParseError):
            self._netrc = None

    def header(self, url: URL) -> str | None:
        """Give the Authorization header to send, from what is known."""
        if given := self._of_npm(url):
            return given
        origin, host = _origin(url), url.host or ""
        found = _of_url(url) or self._keyring.get(origin) or self._of_index(url) or self._of_netrc(host)
        return _basic(found) if found else None

    async def asked_for(self, url: URL, sent: str | None) -> str | None:
        """Give another header from the keyring, where the one that was sent is refused."""
        found = await self._ask_keyring(url)
        header = _basic(found) if found else None
        return None if header == sent else header

    def _of_npm(self, url: URL) -> str | None:
        """Give what npm's configuration has for a place, in the clear only to a registry that is http itself.

        npm, whose configuration names no scheme, sends it wherever a lock leads on that host.
        """
        if url.scheme != "https" and _origin(url) not in map(_origin, self._indexes):
            return None
        address = f"//{url.host_port_subcomponent}{url.raw_path}"
        return next((header for place, header in self._headers if address.startswith(place)), None)

    def _of_index(self, url: URL) -> _Credentials | None:
        """Give those of the index on this host that lies nearest: files often lie beside an index."""
        near = [index for index in self._indexes if _origin(index) == _origin(url)]
        nearest = max(near, key=lambda i: (_in_common(i.path, url.path), bool(_of_url(i))), default=None)
        return _of_url(nearest) if nearest else None

    def _of_netrc(self, host: str) -> _Credentials | None:
        entry = self._netrc.authenticators(host) if self._netrc else None
        return (entry[0], entry[2] or "") if entry else None

    async def _ask_keyring(self, url: URL) -> _Credentials | None:
        origin = _origin(url)
        async with self._asking:
            if origin not in self._keyring:
                named = (i.user for i in self._indexes if i.user and _origin(i) == origin)
                user = next(named, None)
                place = f"{url.scheme}://{url.host_port_subcomponent}/"
                self._keyring[origin] = await asyncio.to_thread(_from_keyring, place, user)
            return self._keyring[origin]


def _origin(url: URL) -> _Origin:
    return url.scheme, url.host, url.port


def _of_url(url: URL) -> _Credentials | None:
    """Give what a URL carries; a lone user name is a token."""
    return (url.user or "", url.password or "") if url.user or url.password else None


def _in_common(one: str, other: str) -> int:
    """Count the leading parts that two paths share."""
    pairs = zip(one.strip("/").split("/"), other.strip("/").split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _basic(credentials: _Credentials) -> str:
    return f"Basic {b64encode(':'.join(credentials).encode()).decode('ascii')}"


def _from_keyring(url: str, user: str | None) -> _Credentials | None:
    """Ask the `keyring` command; None where there is no such command or entry."""
    arguments = ["get", url, user] if user else ["--mode", "creds", "get", url]
    try:
        answer = subprocess.run(
            ["keyring", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_KEYRING_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    if answer.returncode or len(lines) < (1 if user else 2):
        return None
    return (user, lines[0]) if user else (lines[0], lines[1])
