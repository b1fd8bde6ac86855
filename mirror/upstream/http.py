"""One HTTP client for all upstreams: credentials by host, no way to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import asynccontextmanager
from netrc import NetrcParseError, netrc
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import httpx

from mirror.errors import UpstreamError
from mirror.upstream.settings import UpstreamSettings, redact

_USER_AGENT = "lockstock"


@asynccontextmanager
async def http_client(settings: UpstreamSettings, concurrency: int) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client. `concurrency` is the most connections at a time."""
    guard = _AddressGuard(settings)
    async with httpx.AsyncClient(
        verify=_tls(settings),
        proxy=settings.proxy,
        mounts={
            f"https://{host}": httpx.AsyncHTTPTransport(verify=False, proxy=settings.proxy)
            for host in settings.trusted_hosts
        },
        timeout=httpx.Timeout(settings.timeout),
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        follow_redirects=True,
        max_redirects=5,
        auth=_HostAuth(settings.indexes),
        headers={"User-Agent": _USER_AGENT},
        event_hooks={"request": [guard.check]},
    ) as client:
        yield client


def _tls(settings: UpstreamSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.cert)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert)
    except OSError as error:
        raise UpstreamError(
            f"pip's certificate setting cannot be used: {error}", hint="`pip config debug`"
        ) from error
    return context


class _HostAuth(httpx.Auth):
    """Sends an index's credentials to that index's host only, and netrc's to netrc's hosts."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._known: dict[str, tuple[str, str]] = {}
        for url in urls:
            parts = urlsplit(url)
            if parts.username:
                self._known[parts.netloc.rpartition("@")[2]] = (
                    unquote(parts.username),
                    unquote(parts.password or ""),
                )
        try:
            self._netrc: netrc | None = netrc()
        except (FileNotFoundError, NetrcParseError):
            self._netrc = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        credentials = self._known.get(request.url.netloc.decode("ascii"))
        if credentials is None and self._netrc and (entry := self._netrc.authenticators(request.url.host)):
            credentials = (entry[0], entry[2] or "")
        if credentials:
            yield from httpx.BasicAuth(*credentials).auth_flow(request)
        else:
            yield request


class _AddressGuard:
    """Refuses requests that an index's page or a redirect aims at private addresses.

    Hosts that the user's own settings name are trusted, and an upstream that is itself private
    may name its private neighbours. Behind a proxy names are the proxy's to resolve.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._named = {urlsplit(url).hostname for url in settings.indexes}
        self._proxied = settings.proxy is not None or any(
            name in getproxies() for name in ("http", "https", "all")
        )
        self._verdicts: dict[str, bool] = {}
        self._upstream_is_private: bool | None = None

    async def check(self, request: httpx.Request) -> None:
        if request.url.scheme not in ("http", "https"):
            raise UpstreamError(
                f"{request.url.scheme} is not a scheme to fetch from", where=redact(str(request.url))
            )
        host = request.url.host
        if host in self._named or self._proxied or not await self._private(host):
            return
        if self._upstream_is_private is None:
            hosts = [name for name in self._named if name]
            self._upstream_is_private = any([await self._private(name) for name in hosts])
        if not self._upstream_is_private:
            raise UpstreamError(
                "a public index sends us to a private address",
                where=redact(str(request.url)),
                hint="not followed",
            )

    async def _private(self, host: str) -> bool:
        if host not in self._verdicts:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError:
                return False  # the request itself will say that the name is unknown
            self._verdicts[host] = any(not ipaddress.ip_address(item[4][0]).is_global for item in found)
        return self._verdicts[host]
