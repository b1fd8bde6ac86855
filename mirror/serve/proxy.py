"""Hands requests on to devpi: uploads, users, its own pages."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from mirror.serve.outside import FORWARDED, outside_url

# Of one connection only (RFC 9110, section 7.6.1).
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "expect",
}  # fmt: skip
_OUTSIDE = "X-Outside-Url"  # devpi's own header for the place of its top
# devpi-web redirects what ends in a slash, even its top where a proxy shows that below a folder.
_TOP = "/?top"
_NO_LINGER = struct.pack("ii", 1, 0)  # what is not sent yet is dropped, and the peer is told of a reset
_AT_ONCE = 50  # as many threads as devpi's server has


class Proxy:
    """Forwards to a server on loopback, under the very same paths and host.

    devpi makes its absolute URLs of the host, or of what a proxy in front tells, so they lead back here.
    """

    def __init__(self, port: int) -> None:
        self._backend = URL.build(scheme="http", host="127.0.0.1", port=port)
        self._session: ClientSession | None = None

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep connections open while the application runs."""
        async with ClientSession(
            connector=TCPConnector(limit=_AT_ONCE),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=5, sock_read=300),
        ) as self._session:
            yield

    async def top(self, request: web.Request) -> web.StreamResponse:
        """Answer as devpi does at its top, which it shares with the status page."""
        return await self.forward(request, _TOP)

    async def forward(self, request: web.Request, path: str | None = None) -> web.StreamResponse:
        """Answer as devpi does, at `path` if not where it is asked, or 502 where it does not.

        Where its answer breaks off, so does this one, with a reset of the connection.
        """
        if self._session is None:
            raise web.HTTPBadGateway
        try:
            async with self._session.request(
                # devpi's server ends its answers to HEAD as if they had a body, which clients refuse.
                "GET" if request.method == "HEAD" else request.method,
                URL(f"{self._backend}{path or request.rel_url.raw_path_qs}", encoded=True),
                headers=_asked_on(request),
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as answer:
                return await _handed_on(request, answer)
        except ClientError as error:
            raise web.HTTPBadGateway(text="devpi does not answer\n") from error

    async def has(self, path: str) -> bool:
        """Say whether devpi has something at `path`; it has nothing while it does not answer."""
        if self._session is None:
            return False
        try:
            async with self._session.get(self._backend.with_path(path)) as answer:
                return answer.status == 200
        except ClientError:
            return False

    async def account(self, credentials: Mapping[str, str]) -> tuple[str, str] | None:
        """Give name and title of the user whose headers devpi takes these for. Raises HTTPBadGateway."""
        try:
            told = await self._result("/+api", credentials)
            if told is None or told["authstatus"][0] != "ok":
                return None
            name = str(told["authstatus"][1])
            user = await self._result(f"/{name}")
            return name, str((user or {}).get("title", ""))
        except (ClientError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise web.HTTPBadGateway(text="devpi does not answer\n") from error

    async def _result(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """Give what devpi answers, or None where it refuses. Raises ClientError, ValueError, KeyError."""
        if self._session is None:
            raise web.HTTPBadGateway
        url = self._backend.with_path(path)
        async with self._session.get(
            url, headers={**(headers or {}), "Accept": "application/json"}
        ) as answer:
            return (await answer.json())["result"] if answer.status == 200 else None


async def _handed_on(request: web.Request, answer: ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers)
    )
    await response.prepare(request)
    try:
        if request.method != "HEAD":
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
    except ClientError:  # the answer has begun: a second one, of an error, would be taken for its rest
        _reset(request.transport)
    return response


def _reset(transport: asyncio.Transport | None) -> None:
    """Break a connection off: to be merely closed is a good end where no length was told (HTTP/1.0)."""
    if transport is not None:
        opened = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()


def _asked_on(request: web.Request) -> CIMultiDict[str]:
    headers = _passed_on(request.headers)
    if any(name in headers for name in FORWARDED):
        headers.setdefault(_OUTSIDE, outside_url(request))
    return headers


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    kept = ((key, value) for key, value in headers.items() if key.lower() not in _HOP_BY_HOP | named)
    return CIMultiDict(kept)
