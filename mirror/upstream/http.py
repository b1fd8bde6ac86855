"""One HTTP client for all upstreams: proxies, credentials, and where answers lead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from yarl import URL

from mirror.errors import UpstreamError
from mirror.upstream.auth import UpstreamAuth
from mirror.upstream.curl import Answer, Begin, Request, Route, Sink, Wire
from mirror.upstream.resolver import Resolver
from mirror.upstream.settings import UpstreamSettings, without_secrets

_SCHEMES = ("http", "https")
_UNAUTHORIZED = 401
_LED_ON = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_LONGEST = 1 << 16  # characters of a URL: those that are signed have some thousands
_DOTS = frozenset({".", ".."})
# What a URL may hold as it is: what is quoted already stays so, since some URLs are signed.
_SAFE = "!$%&'()*+,/:;=?@[]~"


@asynccontextmanager
async def http_client(settings: UpstreamSettings, concurrency: int) -> AsyncIterator[Client]:
    """Open the client. `concurrency` is the most connections that are kept. Raises UpstreamError."""
    for url in settings.named:
        if not url.startswith("file:"):
            _address(url)
    auth = UpstreamAuth(settings.named, settings.authorization)
    async with Wire(settings, concurrency) as wire:
        yield Client(wire, _Routes(settings), auth)


class Client:
    """Asks for URLs: with their credentials, and on where an answer leads."""

    def __init__(self, wire: Wire, routes: _Routes, auth: UpstreamAuth) -> None:
        self._wire = wire
        self._routes = routes
        self._auth = auth

    async def ask(
        self, url: str, begin: Begin, headers: Mapping[str, str] | None = None, *, alone: bool = False
    ) -> Answer:
        """Give the answer when all of it came. Raises UpstreamError and its kinds, and what `begin` raises.

        `begin` is shown the answer that counts, as soon as its headers came, and says what takes its body.
        What is large comes sooner over a connection `alone`.
        """
        place, given = _address(url), URL(url)
        sent = self._auth.header(given)
        request = Request(headers=headers or {}, begin=begin, alone=alone)
        answer = await self._followed(place, request, sent)
        if answer.status == _UNAUTHORIZED:
            known = await self._auth.asked_for(given, sent)
            if known is not None:
                answer = await self._followed(place, request, known)
        if answer.status == _UNAUTHORIZED:
            begin(answer)
        return answer

    async def _followed(self, place: URL, request: Request, authorization: str | None) -> Answer:
        """Go where answers lead. Credentials stay with those whom they were given for."""

        def begin(answer: Answer) -> Sink | None:
            counts = not _leads_on(answer) and answer.status != _UNAUTHORIZED
            return request.begin(answer) if counts else None

        for _ in range(_MOST_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization else {}
            asked = replace(request, begin=begin, headers={**request.headers, **own})
            answer = await self._wire.get(place, asked, await self._routes.find(place))
            if not _leads_on(answer):
                return answer
            before, place = place, _address(answer.header("Location"), place)
            authorization = authorization if _is_of(place, before) else None
        reason = f"cannot be fetched: more than {_MOST_REDIRECTS} redirects"
        raise UpstreamError(reason, where=without_secrets(str(place)))


class _Routes:
    """Says which requests go through a proxy, where others go, and whose certificates need not be right.

    A proxy looks names up itself, and it refuses addresses or does not; all else is dialled here. Its own
    name is the user's, so it may be private.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        found = getproxies()
        common = settings.proxy or found.get("all")
        self._no_proxy = {} if settings.proxy else {"no": found.get("no", "")}
        given = {scheme: settings.proxy or found.get(scheme) or common for scheme in _SCHEMES}
        self._proxies = {scheme: _proxy(url) for scheme, url in given.items() if url}
        self._trusted = frozenset(settings.trusted_hosts)
        self._resolver = Resolver(settings)

    async def find(self, place: URL) -> Route:
        """Give the way to a place. Raises UpstreamError where there is none."""
        checked = self._trusted.isdisjoint({place.host, place.host_port_subcomponent})
        proxy = self._proxies.get(place.scheme)
        if proxy and not proxy_bypass_environment(place.host_port_subcomponent or "", self._no_proxy):
            return Route(proxy=proxy, checked=checked)
        addresses = await self._resolver.addresses(place.raw_host or "")
        return Route(addresses=addresses, checked=checked)


def _leads_on(answer: Answer) -> bool:
    return answer.status in _LED_ON and bool(answer.header("Location"))


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
    if len(url) > _LONGEST:
        raise UpstreamError("cannot be fetched: the address has no end", where=without_secrets(url)[:200])
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
