"""One HTTP client for all upstreams: proxies, certificates, credentials, and where answers lead."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import cast
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from yarl import URL

from mirror.errors import TruncatedError, UpstreamError
from mirror.upstream.auth import UpstreamAuth
from mirror.upstream.resolver import Resolver
from mirror.upstream.settings import UpstreamSettings, without_secrets

_USER_AGENT = "lockstock"
_SCHEMES = ("http", "https")
_LED_ON = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_BEGINNING = 4  # time-outs: for the connection, for what a proxy says, for TLS, and for all of the headers
_HELD = 1 << 18  # bytes of a body that may wait to be read
_LENGTHS = ("Content-Length", "Transfer-Encoding")
_DOTS = frozenset({".", ".."})
# What a URL may hold as it is: what is quoted already stays so, since some URLs are signed.
_SAFE = "!$%&'()*+,/:;=?@[]~"


class UnreachableError(UpstreamError):
    """No connection, or none that lasts; another try may find one."""


@asynccontextmanager
async def http_client(settings: UpstreamSettings, concurrency: int) -> AsyncIterator[Client]:
    """Open the client. `concurrency` is the most connections at a time. Raises UpstreamError."""
    routes, auth = _Routes(settings), UpstreamAuth(settings.named, settings.authorization)
    resolver, tls = Resolver(settings), _tls(settings)
    # A proxy's own name is the user's, so it may be private; but only for what goes through it.
    async with (
        _session(settings, concurrency, tls, resolver) as direct,
        _session(settings, concurrency, tls, aiohttp.ThreadedResolver()) as proxied,
    ):
        yield Client(direct, proxied, resolver, routes, auth, _BEGINNING * settings.timeout or None)


def _session(
    settings: UpstreamSettings, concurrency: int, tls: ssl.SSLContext | bool, resolver: AbstractResolver
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=resolver,
            ttl_dns_cache=None,  # a name is looked up once
            ssl=tls,
            limit=concurrency,
        ),
        timeout=aiohttp.ClientTimeout(sock_connect=settings.timeout, sock_read=settings.timeout),
        headers={"User-Agent": _USER_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        request_class=_Request,
        response_class=_Response,
        auto_decompress=False,
        read_bufsize=_HELD,
    )


class _Request(aiohttp.ClientRequest):
    """A request that is not sent after bytes that nobody asked for: they would be taken for its answer."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send it; for ServerDisconnectedError, aiohttp tries another connection."""
        if conn.protocol is None or conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    """An answer. One without a length ends with its connection, which may have been cut off."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the headers."""
        self._end = None if connection.protocol is None else connection.protocol.closed
        if self._end is not None:
            self._end.add_done_callback(_seen)
        return await super().start(connection)

    def check_end(self) -> None:
        """Raise ClientPayloadError where all that came was read, and it may not be all that was sent."""
        has_length = any(name in self.headers for name in _LENGTHS)
        if has_length or not self.content.at_eof() or (self._end is not None and not self._end.done()):
            return
        if self._end is None or self._end.exception() is not None:
            raise aiohttp.ClientPayloadError


def _seen(end: asyncio.Future[None]) -> None:
    """Take notice of an error, which asyncio would write to stderr."""
    if not end.cancelled():
        end.exception()


class Client:
    """Asks for URLs: with their credentials, and on where an answer leads."""

    def __init__(
        self,
        direct: aiohttp.ClientSession,
        proxied: aiohttp.ClientSession,
        resolver: Resolver,
        routes: _Routes,
        auth: UpstreamAuth,
        patience: float | None,
    ) -> None:
        self._patience = patience
        self._direct = direct
        self._proxied = proxied
        self._resolver = resolver
        self._routes = routes
        self._auth = auth

    @asynccontextmanager
    async def ask(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer, whose body comes as it is sent. Raises UpstreamError and its kinds.

        Errors of reading the body come up in the same words.
        """
        with _in_our_words(url):
            place, given = _address(url), URL(url)
            sent = self._auth.header(given)
            async with self._followed(place, headers or {}, sent) as response:
                known = await self._auth.asked_for(given, sent) if response.status == 401 else None
                if known is None:
                    yield response
                    return
            async with self._followed(place, headers or {}, known) as response:
                yield response

    @asynccontextmanager
    async def _followed(
        self, place: URL, headers: Mapping[str, str], authorization: str | None
    ) -> AsyncIterator[_Response]:
        """Go where answers lead. Credentials stay with those whom they were given for."""
        for _ in range(_MOST_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization else {}
            response = await self._begun(place, {**headers, **own})
            async with response:
                led_to = response.headers.get("Location") if response.status in _LED_ON else None
                if led_to is None:
                    yield response
                    response.check_end()
                    return
            before, place = place, _address(led_to, place)
            authorization = authorization if _is_of(place, before) else None
        raise UpstreamError(f"cannot be fetched: more than {_MOST_REDIRECTS} redirects")

    async def _begun(self, place: URL, headers: Mapping[str, str]) -> _Response:
        """Give an answer whose headers are there.

        aiohttp waits for the next byte only, and without an end for what a proxy says to CONNECT.
        """
        proxy = self._routes.proxy(place)
        session = self._proxied if proxy else self._direct
        try:
            async with asyncio.timeout(self._patience):
                if proxy is None:
                    await self._resolver.check_literal(place.raw_host or "")
                answer = await session.get(
                    place, headers=headers, proxy=proxy, ssl=self._routes.tls(place), allow_redirects=False
                )
                return cast("_Response", answer)  # as the session was told
        except UnicodeError as error:  # of TLS, behind a proxy: all others are looked up first
            raise UpstreamError(
                "cannot be fetched: the host has no possible name", where=place.host or ""
            ) from error


class _Routes:
    """Says which requests go through a proxy, and which hosts' certificates pip was told to trust.

    A proxy looks names up itself, and it refuses addresses or does not; all else is dialled here.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        found = getproxies()
        common = settings.proxy or found.get("all")
        self._no_proxy = {} if settings.proxy else {"no": found.get("no", "")}
        given = {scheme: settings.proxy or found.get(scheme) or common for scheme in _SCHEMES}
        self._proxies = {scheme: _proxy(url) for scheme, url in given.items() if url}
        self._trusted = frozenset(settings.trusted_hosts)
        self._unchecked = _unchecked() if self._trusted else True

    def proxy(self, place: URL) -> URL | None:
        """Give the proxy to go through."""
        proxy = self._proxies.get(place.scheme)
        if proxy is None or proxy_bypass_environment(place.host_port_subcomponent or "", self._no_proxy):
            return None
        return proxy

    def tls(self, place: URL) -> ssl.SSLContext | bool:
        """Give how certificates are looked at; True is as for all others."""
        trusted = not self._trusted.isdisjoint({place.host, place.host_port_subcomponent})
        return self._unchecked if trusted else True


def _proxy(given: str) -> URL:
    """Read a proxy's URL, which may lack the scheme. Raises UpstreamError."""
    try:
        url = URL(given if "://" in given else f"http://{given}")
        if url.scheme in _SCHEMES and url.host:
            return url
        reason = "it is neither an http nor an https proxy"
    except ValueError as error:
        reason = str(error)
    raise UpstreamError(
        f"the proxy cannot be used: {reason}",
        where=without_secrets(given),
        hint="an http or https proxy can; `pip config list`",
    )


def _address(url: str, base: URL | None = None) -> URL:
    """Give the URL to ask for, without credentials and fragment. Raises UpstreamError where it is none."""
    try:
        whole = urljoin(str(base), url) if base else url
        origin, parts = URL(whole).origin(), urlsplit(whole)
        if origin.scheme in _SCHEMES and origin.host:  # which fails where the name is none
            query = f"?{quote(parts.query, _SAFE)}" if parts.query else ""
            is_plain = _DOTS.isdisjoint(map(unquote, parts.path.split("/")))
            # Steps up and down are gone where credentials are looked for, so they are not sent, either.
            path = quote(parts.path or "/", _SAFE) if is_plain else URL(whole).raw_path
            return URL(f"{origin}{path}{query}", encoded=True)
        reason = "it is not an http or https address"
    except ValueError:  # its words may hold the credentials
        reason = "it is not an address"
    raise UpstreamError(f"cannot be fetched: {reason}", where=without_secrets(url))


def _is_of(following: URL, place: URL) -> bool:
    """Say whether a redirect stays with the same server, or only becomes a secure one there."""
    upgrade = (place.scheme, place.port, following.scheme, following.port) == ("http", 80, "https", 443)
    return following.origin() == place.origin() or (upgrade and following.host == place.host)


@contextmanager
def _in_our_words(url: str) -> Iterator[None]:
    """Turn the errors of the client into ours. Theirs may hold credentials and signatures."""
    where = without_secrets(url)
    try:
        yield
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
        raise TruncatedError(
            "the upstream stopped in the middle", where=where, hint="run the refresh again"
        ) from error
    except aiohttp.ClientResponseError as error:
        is_proxy = isinstance(error, aiohttp.ClientHttpProxyError)
        what = error.message.partition(":")[0]  # then comes what was sent, a place with credentials for one
        raise UnreachableError(
            f"the proxy answers {error.status}" if is_proxy else f"the answer cannot be read: {what}",
            where=where,
            hint="check the proxy, and `pip config list` or `npm config list`",
        ) from error
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise UnreachableError(
            f"cannot be reached: {_reason(error)}",
            where=where,
            hint="check the network, the proxy, and `pip config list` or `npm config list`",
        ) from error
    except aiohttp.ClientError as error:
        raise UpstreamError(f"cannot be fetched: {type(error).__name__}", where=where) from error


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, TimeoutError):
        return "it takes too long"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _unchecked() -> ssl.SSLContext:
    """Make the context for what pip calls trusted hosts: their certificates are not verified."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls(settings: UpstreamSettings) -> ssl.SSLContext | bool:
    """Make the context that the settings ask for; True stands for the client's own, which is there."""
    if not settings.cert and not settings.client_cert:
        return True
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
