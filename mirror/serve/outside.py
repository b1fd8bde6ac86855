"""Where clients find the server: at the address that they ask, or at that of a proxy in front of it."""

from __future__ import annotations

import re

from aiohttp import web

FORWARDED = ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix")
_SCHEMES = ("http", "https")
_HOST = re.compile(r"[\w.:\[\]-]+", re.ASCII)
_PREFIX = re.compile(r"(?:/[\w.~-]+)*", re.ASCII)


def outside_url(request: web.Request) -> str:
    """Give the URL of the server's top, without a slash at its end, as the client of a proxy knows it.

    The headers of the proxy next to the client count. They tell nothing but what that client is
    answered, so it does not matter who sent them. Raises HTTPBadRequest for what cannot be in a URL.
    """
    scheme, host, prefix = (_first(request.headers.get(name, "")) for name in FORWARDED)
    scheme, host, prefix = scheme or request.scheme, host or request.host, prefix.rstrip("/")
    if scheme not in _SCHEMES or not _HOST.fullmatch(host) or not _PREFIX.fullmatch(prefix):
        raise web.HTTPBadRequest
    return f"{scheme}://{host}{prefix}"


def _first(values: str) -> str:
    return values.partition(",")[0].strip()
