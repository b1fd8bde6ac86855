"""Lets in only who has an account, which devpi is asked about: its users, and readers with their tokens."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from collections.abc import Mapping
from hashlib import sha256

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirror.publish.devpi_accounts import READER
from mirror.serve.proxy import Proxy

# They tell nothing of packages; devpi's clients ask the latter two before they have credentials.
_OPEN = ("/health", "/metrics", "/+api", "/+login")
_CREDENTIALS = ("Authorization", "X-Devpi-Auth", "X-Devpi-Replica-Uuid")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")  # which has none of a session's dots and brackets
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
        account = await self._proxy.account(sent)
        if account is None or (account[1] == READER and not _is_token(sent, account[0])):
            return False
        if len(self._good) >= _REMEMBERED_AT_MOST:
            self._good.clear()
        self._good[key] = now + _FRESH
        return True


def _is_token(sent: Mapping[str, str], name: str) -> bool:
    """Say whether these headers carry a reader's token itself.

    Of a token that was changed the sessions that devpi made of it would be good for hours more.
    """
    return all(
        _TOKEN.fullmatch(_decoded(sent[header].rpartition(" ")[2]).removeprefix(f"{name}:"))
        for header in ("Authorization", "X-Devpi-Auth")
        if header in sent
    )


def _decoded(text: str) -> str:
    try:
        return b64decode(text, validate=True).decode("ascii")
    except ValueError:
        return ""
