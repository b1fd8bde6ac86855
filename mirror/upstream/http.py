"""One HTTP client for all upstreams: credentials by host, no way to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpcore
import httpx

from mirror.errors import UpstreamError
from mirror.upstream.auth import UpstreamAuth
from mirror.upstream.settings import UpstreamSettings, redact
from mirror.upstream.stream import open_stream

_USER_AGENT = "lockstock"
_SCHEMES = ("http", "https", "all")


@asynccontextmanager
async def http_client(settings: UpstreamSettings, concurrency: int) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client. `concurrency` is the most connections at a time. Raises UpstreamError."""
    context, dialer = _tls(settings), _Dialer(settings)
    async with httpx.AsyncClient(
        transport=_transport(context, dialer, concurrency),
        mounts=_mounts(settings, context, dialer, concurrency),
        timeout=httpx.Timeout(settings.timeout),
        follow_redirects=True,
        max_redirects=5,
        auth=UpstreamAuth(settings.named, settings.authorization),
        headers={"User-Agent": _USER_AGENT},
        trust_env=False,
    ) as client:
        yield client


def _mounts(
    settings: UpstreamSettings, context: ssl.SSLContext, dialer: _Dialer, concurrency: int
) -> dict[str, httpx.AsyncBaseTransport]:
    """Say which requests go through a proxy, and which hosts' certificates pip was told to trust.

    A proxy looks names up itself, and it refuses addresses or does not; all else is dialled here.
    """
    proxies = {"all": settings.proxy} if settings.proxy else {s: getproxies().get(s) for s in _SCHEMES}
    mounts: dict[str, httpx.AsyncBaseTransport] = {
        f"{scheme}://": _proxied(proxy, context) for scheme, proxy in proxies.items() if proxy
    }
    direct = [] if settings.proxy else [host.strip() for host in getproxies().get("no", "").split(",")]
    for host in filter(None, direct):
        pattern = "all://" if host == "*" else f"all://{'*' if host.startswith('.') else ''}{host}"
        mounts[pattern] = _transport(context, dialer, concurrency)
    for host in settings.trusted_hosts:
        proxy = proxies.get("all") or proxies.get("https")
        trusting = _proxied(proxy, _unchecked()) if proxy else _transport(_unchecked(), dialer, concurrency)
        mounts[f"https://{host}"] = trusting
    return mounts


def _proxied(proxy: str, context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        return httpx.AsyncHTTPTransport(verify=context, proxy=url)
    except (ValueError, ImportError) as error:
        raise UpstreamError(
            f"the proxy cannot be used: {error}",
            where=redact(url),
            hint="an http or https proxy can; `pip config list`",
        ) from error


def _transport(context: ssl.SSLContext, dialer: _Dialer, concurrency: int) -> httpx.AsyncHTTPTransport:
    transport = httpx.AsyncHTTPTransport(verify=context)
    # httpx has no argument for the network backend, so its pool is replaced by one that has.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=concurrency,
        max_keepalive_connections=concurrency,
        network_backend=dialer,
    )
    return transport


def _unchecked() -> ssl.SSLContext:
    """Make the context for what pip calls trusted hosts: their certificates are not verified."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls(settings: UpstreamSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.cert)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert)
    except OSError as error:
        raise UpstreamError(
            f"the certificate setting cannot be used: {error}",
            hint="look at `pip config debug` and `npm config list`",
        ) from error
    return context


class _Dialer(httpcore.AsyncNetworkBackend):
    """Looks each name up once, and dials only addresses that may be dialled.

    Hosts that the user's own settings name are trusted; an index's page or a redirect may lead to
    a private address only if the upstream is itself private. What was checked is what is dialled,
    so that a name which changes its address between the two gains nothing.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._named = {host for url in settings.named if (host := urlsplit(url).hostname)}
        self._lookups: dict[str, asyncio.Task[list[str]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._checked(host)
        for last, address in enumerate(addresses, 1):
            try:
                return await open_stream(address, port, timeout, local_address)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _checked(self, host: str) -> list[str]:
        addresses = await self._look_up(host)
        if host in self._named or not any(map(_is_private, addresses)):
            return addresses
        own = [address for name in sorted(self._named) for address in await self._look_up(name)]
        if not any(map(_is_private, own)):
            raise UpstreamError(
                "a public index sends us to a private address", where=host, hint="not followed"
            )
        return addresses

    async def _look_up(self, host: str) -> list[str]:
        """Look a name up once for all who ask; what failed may be asked again."""
        if host not in self._lookups:
            self._lookups[host] = asyncio.create_task(_addresses(host))
        try:
            return await asyncio.shield(self._lookups[host])
        except httpcore.ConnectError:
            self._lookups.pop(host, None)
            raise


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a name may not even be one
        raise httpcore.ConnectError(f"{host}: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _is_private(address: str) -> bool:
    return not ipaddress.ip_address(address.partition("%")[0]).is_global
