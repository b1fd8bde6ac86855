"""Requests by libcurl: over HTTP/2 where it is offered, else over connections of HTTP/1.1 that are kept."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pycurl
from yarl import URL

from mirror.errors import UpstreamError
from mirror.upstream.certificates import authorities
from mirror.upstream.failures import NO_PROXY_ACCESS, UnreachableError, failure, refusal
from mirror.upstream.settings import UpstreamSettings, without_secrets

_USER_AGENT = "lockstock"
_LONGEST_TIMEOUT = (1 << 31) - 1  # milliseconds
_SUPPRESS_CONNECT_HEADERS = 265  # an option that PycURL has no name for
_FIRST = 2  # time-outs: for the connection, with its proxy and TLS, and for the first of the headers
_BEGINNING = 3  # time-outs: for all of the headers, too
_BUFFER = 1 << 18
_LEFTOVER = 1 << 16  # bytes of a body that nobody wants, which cost less than another connection
_ALONE = {pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1}
_SHARED = {pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an upstream says before it sends anything. `headers` are by their names in lower case."""

    status: int
    reason: str
    url: str
    headers: Mapping[str, str] = field(repr=False)

    def header(self, name: str) -> str:
        """Give a header, empty where there is none."""
        return self.headers.get(name.lower(), "")


Sink = Callable[[bytes], object]
# Is shown an answer before its body comes, and says what takes that; None is for a body that nobody wants.
# Both may raise to end the request.
Begin = Callable[[Answer], Sink | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a place is reached: through a proxy, or at these addresses and no others.

    `checked` says that its certificate must be right.
    """

    proxy: URL | None = None
    addresses: tuple[str, ...] = ()
    checked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked with, and who takes the answer.

    `alone` says that nothing else is to share the connection, which then is one of HTTP/1.1.
    """

    begin: Begin
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    alone: bool = False


class Wire:
    """All connections; an async context manager. Raises UpstreamError for certificates that are not there."""

    def __init__(self, settings: UpstreamSettings, connections: int) -> None:
        self._timeout = settings.timeout or math.inf
        self._certificates = authorities(settings)
        self._shared = defaultdict[URL, _Shared](lambda: _Shared(may_be_http_2=True))
        self._multi: Any = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)

    async def __aenter__(self) -> Wire:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._multi.aclose()

    async def get(self, place: URL, request: Request, route: Route) -> Answer:
        """Ask for a place; give the answer when all of its body came. Raises UpstreamError and its kinds."""
        is_shared = place.scheme == "https" and not request.alone
        shared = self._shared[place.origin()] if is_shared else _Shared()
        async with shared.turn():
            arriving = _Arriving(str(place), request.begin, self._timeout, shared)
            handle = self._handle(place, request, route, arriving)
            try:
                await arriving.wait(self._multi.add_handle(handle))
                version = handle.getinfo(pycurl.INFO_HTTP_VERSION)
                shared.may_be_http_2 = version == pycurl.CURL_HTTP_VERSION_2_0
            except (pycurl.error, TimeoutError) as error:
                if arriving.error is not None:
                    raise arriving.error from None
                if isinstance(error, TimeoutError) and shared.silence() >= self._timeout:
                    _cut(handle)
                if not arriving.is_enough:
                    raise _failed(handle, error, arriving) from error
            finally:
                arriving.end()
        return arriving.found()

    def _handle(self, place: URL, request: Request, route: Route, arriving: _Arriving) -> Any:
        handle = pycurl.Curl()
        options = {
            **self._certificates,
            **_way(place, route),
            **(_ALONE if request.alone else _SHARED),
            pycurl.PIPEWAIT: int(arriving.shared.may_be_http_2),
            pycurl.PREREQFUNCTION: arriving.stands,
            pycurl.URL: str(place),
            pycurl.PATH_AS_IS: 1,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.USERAGENT: _USER_AGENT,
            pycurl.HTTPHEADER: list(_lines(request.headers)),
            _SUPPRESS_CONNECT_HEADERS: 1,  # they come with the first request of a connection only
            pycurl.HEADERFUNCTION: arriving.header,
            pycurl.WRITEFUNCTION: arriving.body,
            pycurl.BUFFERSIZE: _BUFFER,
            pycurl.CONNECTTIMEOUT_MS: int(min(self._timeout * 1000, _LONGEST_TIMEOUT)),
            pycurl.NOSIGNAL: 1,
        }
        for option, value in options.items():
            handle.setopt(option, os.fsencode(value) if isinstance(value, str) else value)
        return handle


@dataclass(slots=True)
class _Shared:
    """What those who share the connections to a place know of them.

    `heard` is when anything came, for anybody; `stands` says that the first connection is there, or will
    not be; where what comes `may_be_http_2`, a connection that is being made is waited for, to share it.
    """

    heard: float = -math.inf
    may_be_http_2: bool = False
    is_taken: bool = False
    stands: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait while the first connection is made, unless it is the own one.

        libcurl, too, can wait until it knows what can be shared; but of HTTP/1.1 until the first answer.
        """
        if self.is_taken:
            await self.stands.wait()
        self.is_taken = True
        try:
            yield
        finally:
            self.stands.set()

    def silence(self) -> float:
        """Give the seconds since anything came."""
        return time.monotonic() - self.heard


class _Arriving:
    """One answer as it comes, and by when more of it has to."""

    def __init__(self, url: str, begin: Begin, timeout: float, shared: _Shared) -> None:
        self.error: BaseException | None = None
        self.url = url
        self._begin: Begin | None = begin
        self._sink: Sink | None = None
        self._answer: Answer | None = None
        self._lines: list[str] = []
        self._unwanted = 0
        self._timeout = timeout
        self.shared = shared
        self._begun = time.monotonic()
        self._deadline = self._begun + _FIRST * timeout

    @property
    def has_begun(self) -> bool:
        """Whether all headers came."""
        return self._answer is not None

    @property
    def is_enough(self) -> bool:
        """Whether all that anybody wants came, however a body that nobody wants ends."""
        return self._answer is not None and self._sink is None

    def found(self) -> Answer:
        """Give the answer. Raises UnreachableError where none came."""
        if self._answer is None:
            raise UnreachableError("there is no answer", where=without_secrets(self.url))
        return self._answer

    async def wait(self, done: asyncio.Future[Any]) -> None:
        """Wait for the end. Raises pycurl.error, and TimeoutError when nothing came for too long."""
        try:
            while not done.done():
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([done], timeout=None if math.isinf(left) else left)
            done.result()
        finally:
            done.cancel()

    def stands(self, *_: object) -> int:
        """Take note that there is a connection, which others may share."""
        self.shared.stands.set()
        return int(pycurl.PREREQFUNC_OK)

    def end(self) -> None:
        """Take no more: a request that is given up lives until the event loop turns."""
        self._begin = self._sink = None

    def header(self, line: bytes) -> int | None:
        """Take a line. An error is kept: libcurl would only print it. Anything but None ends the request."""
        if self._answer is not None:  # it is a trailer
            return None
        try:
            self.shared.heard = time.monotonic()
            self._deadline = self._begun + _BEGINNING * self._timeout
            return self._read(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
        except BaseException as error:
            self.error = error
            return 0

    def body(self, piece: bytes) -> int | None:
        """Take a piece, likewise."""
        try:
            self.shared.heard = time.monotonic()
            self._deadline = self.shared.heard + self._timeout
            if self._sink is not None:
                self._sink(piece)
                return None
        except BaseException as error:
            self.error = error
            return 0
        self._unwanted += len(piece)
        return 0 if self._unwanted > _LEFTOVER or self._begin is None else None

    def _read(self, line: str) -> int | None:
        if line:
            self._lines.append(line)
            return None
        answer = _parse(self._lines, self.url)
        self._lines = []
        if answer.status < 200:  # a note on the way
            return None
        if answer.status == NO_PROXY_ACCESS:
            raise refusal(answer.status, self.url)
        if self._begin is not None:
            self._answer, self._deadline = answer, time.monotonic() + self._timeout
            self._sink = self._begin(answer)
        return None if self._begin is not None else 0


def _failed(handle: Any, error: Exception, arriving: _Arriving) -> UpstreamError:
    code, text = error.args[:2] if isinstance(error, pycurl.error) else (0, "it takes too long")
    proxy = handle.getinfo(pycurl.HTTP_CONNECTCODE)
    return failure(arriving.url, code, text, proxy, begun=arriving.has_begun)


def _cut(handle: Any) -> None:
    """End a connection that is dead: libcurl would give it to the next try, too, while others wait on it."""
    number = handle.getinfo(pycurl.ACTIVESOCKET)
    if number >= 0:
        with socket.socket(fileno=os.dup(number)) as dead, suppress(OSError):
            dead.shutdown(socket.SHUT_RDWR)


def _parse(lines: Sequence[str], url: str) -> Answer:
    """Read a status line and headers; of those that come twice, the first counts."""
    _, status, reason = f"{lines[0]}  ".split(" ", 2)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return Answer(status=int(status), reason=reason.strip(), url=url, headers=headers)


def _way(place: URL, route: Route) -> dict[int, object]:
    """Give the options that lead along a route; what the environment says of proxies was read already."""
    found: dict[int, object] = {pycurl.NOPROXY: "", pycurl.PROXY: ""}
    if not route.checked:
        found |= {pycurl.SSL_VERIFYPEER: 0, pycurl.SSL_VERIFYHOST: 0}
    if route.proxy is None:
        # One that needs an interface it cannot read; one that stands for itself it need not.
        listed = ",".join(f"[{one}]" if ":" in one else one for one in route.addresses if "%" not in one)
        if ":" not in (place.raw_host or ""):
            found[pycurl.RESOLVE] = [f"{place.raw_host}:{place.port}:{listed}"]
        found[pycurl.OPENSOCKETFUNCTION] = _only(route.addresses)
    else:
        found[pycurl.PROXY] = str(route.proxy.origin())
        found[pycurl.PROXYPORT] = route.proxy.port  # else 1080 where the origin does not tell
        if route.proxy.user or route.proxy.password:
            found[pycurl.PROXYUSERNAME] = route.proxy.user or ""
            found[pycurl.PROXYPASSWORD] = route.proxy.password or ""
    return found


def _only(addresses: Iterable[str]) -> Callable[[int, Any], Any]:
    """Give what opens sockets to these addresses only: libcurl reads some names in other ways than we do."""
    allowed = {_plain(address) for address in addresses}

    def opened(purpose: int, address: Any) -> Any:
        if _plain(str(address.addr[0])) not in allowed:
            return pycurl.SOCKET_BAD
        try:
            return socket.socket(address.family, address.socktype, address.protocol)
        except OSError:  # there is no IPv6 here, say: libcurl would print it
            return pycurl.SOCKET_BAD

    return opened


def _plain(address: str) -> str:
    """Give an address without the interface that it is reached by."""
    return str(ipaddress.ip_address(address.partition("%")[0]))


def _lines(headers: Mapping[str, str]) -> Iterator[bytes]:
    """Give headers as they are sent. Raises UpstreamError where one holds the end of a line."""
    for name, value in headers.items():
        if not value.isprintable():
            raise UpstreamError(f"what is set for {name} cannot be sent: it holds control characters")
        yield f"{name}: {value}".encode()
