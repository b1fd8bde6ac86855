"""One HTTP client for all upstreams: credentials by host, no way to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from netrc import NetrcParseError, netrc
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import httpcore
import httpx

from mirror.errors import UpstreamError
from mirror.upstream.settings import UpstreamSettings

_USER_AGENT = "lockstock"


@asynccontextmanager
async def http_client(settings: UpstreamSettings, concurrency: int) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client. `concurrency` is the most connections at a time."""
    context = _tls(settings)
    dialer = _Dialer(settings)
    insecure = {
        f"https://{host}": _transport(_unchecked(), dialer, concurrency) for host in settings.trusted_hosts
    }
    # Behind a proxy, names are the proxy's to look up and addresses its to refuse.
    proxied = settings.proxy is not None or any(name in getproxies() for name in ("http", "https", "all"))
    async with httpx.AsyncClient(
        verify=context,
        proxy=settings.proxy,
        transport=None if proxied else _transport(context, dialer, concurrency),
        mounts=None if proxied else insecure,
        timeout=httpx.Timeout(settings.timeout),
        follow_redirects=True,
        max_redirects=5,
        auth=_HostAuth(settings.named, settings.authorization),
        headers={"User-Agent": _USER_AGENT},
    ) as client:
        yield client


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


class _HostAuth(httpx.Auth):
    """Sends an index's credentials to that index's host only, and netrc's to netrc's hosts.

    Where a host asks for some and there are none, the user's keyring is asked, once, as pip does.
    """

    def __init__(self, urls: Iterable[str], authorization: Mapping[str, str]) -> None:
        self._places = sorted(authorization.items(), key=lambda item: -len(item[0]))
        self._known: dict[str, tuple[str, str] | None] = {}
        self._users: dict[str, str] = {}
        for url in urls:
            parts = urlsplit(url)
            host, user = parts.netloc.rpartition("@")[2], unquote(parts.username or "")
            if user:
                self._users[host] = user
            if user and parts.password is not None:
                self._known[host] = (user, unquote(parts.password))
        try:
            self._netrc: netrc | None = netrc()
        except (FileNotFoundError, NetrcParseError):
            self._netrc = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if header := self._header_of(request.url):
            request.headers["Authorization"] = header
            yield request
            return
        host = request.url.netloc.decode("ascii")
        credentials = self._known.get(host) or self._from_netrc(request.url.host)
        if credentials is None and (user := self._users.get(host)):
            credentials = (user, "")  # a token in the place of the user's name
        if credentials:
            response = yield from self._send(request, credentials)
        else:
            response = yield request
        if response.status_code == 401 and host not in self._known:
            self._known[host] = _from_keyring(f"{request.url.scheme}://{host}/", self._users.get(host))
            if found := self._known[host]:
                yield from self._send(request, found)

    def _header_of(self, url: httpx.URL) -> str | None:
        """Give the header for a URL, that of the longest place which it is below."""
        address = f"//{url.netloc.decode('ascii')}{url.path}"
        return next((header for place, header in self._places if address.startswith(place)), None)

    def _send(
        self, request: httpx.Request, credentials: tuple[str, str]
    ) -> Generator[httpx.Request, httpx.Response, httpx.Response]:
        secret = b64encode(":".join(credentials).encode()).decode("ascii")
        request.headers["Authorization"] = f"Basic {secret}"
        return (yield request)

    def _from_netrc(self, host: str) -> tuple[str, str] | None:
        entry = self._netrc.authenticators(host) if self._netrc else None
        return (entry[0], entry[2] or "") if entry else None


def _from_keyring(url: str, user: str | None) -> tuple[str, str] | None:
    """Ask the `keyring` command; None where there is no such command or entry."""
    arguments = ["get", url, user] if user else ["--mode", "creds", "get", url]
    try:
        answer = subprocess.run(
            ["keyring", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    if answer.returncode or len(lines) < (1 if user else 2):
        return None
    return (user, lines[0]) if user else (lines[0], lines[1])


class _Dialer(httpcore.AsyncNetworkBackend):
    """Looks each name up once, and dials only addresses that may be dialled.

    Hosts that the user's own settings name are trusted; an index's page or a redirect may lead to
    a private address only if the upstream is itself private. What was checked is what is dialled,
    so that a name which changes its address between the two gains nothing.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._named = {host for url in settings.named if (host := urlsplit(url).hostname)}
        self._backend = httpcore.AnyIOBackend()
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
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)

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
        if host not in self._lookups:
            self._lookups[host] = asyncio.create_task(_addresses(host))
        return await self._lookups[host]


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"{host}: {error.strerror or error}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _is_private(address: str) -> bool:
    return not ipaddress.ip_address(address.partition("%")[0]).is_global
