"""Lets in only who has an account, which devpi is asked about: its users, and readers with their tokens."""

from __future__ import annotations

import time
from hashlib import sha256

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirror.serve.proxy import Proxy

# They tell nothing of packages; devpi's clients ask the latter two before they have credentials.
_OPEN = ("/health", "/metrics", "/+api", "/+login")
_CREDENTIALS = ("Authorization", "X-Devpi-Auth", "X-Devpi-Replica-Uuid")
_FRESH = 60.0  # seconds, after which devpi is asked again
_REMEMBERED_AT_MOST = 10_000


class Readers:
    """Remembers for a minute, by their digests, which credentials are good."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._good: dict[bytes, float] = {}

    def middleware(self) -> Middleware:
        """Give what stands before every answer."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in _OPEN or await self._knows(request):
                return await handler(request)
            raise web.HTTPUnauthorized(
                text="reading needs an account of this mirror\n",
                headers={"WWW-Authenticate": 'Basic realm="lockstock"'},
            )

        return check

    async def keep_private(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Keep an answer, devpi's too, out of the caches that several people share (RFC 9111, 5.2.2)."""
        said = (part.strip() for part in response.headers.get("Cache-Control", "").split(","))
        kept = [part for part in said if part and part.lower() not in ("public", "private")]
        response.headers["Cache-Control"] = ", ".join(["private", *kept])

    async def _knows(self, request: web.Request) -> bool:
        sent = {name: request.headers[name] for name in _CREDENTIALS if name in request.headers}
        if not sent:
            return False
        key, now = sha256(repr(sorted(sent.items())).encode()).digest(), time.monotonic()
        if self._good.get(key, 0.0) > now:
            return True
        if not await self._proxy.is_account(sent):
            return False
        if len(self._good) >= _REMEMBERED_AT_MOST:
            self._good.clear()
        self._good[key] = now + _FRESH
        return True
