"""The ways out: tunnels to allowed hosts, plain requests, and routes on which the gate adds credentials."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from mirror.gate.addresses import Address
from mirror.gate.core import Core, Denied, Exchange, describe
from mirror.gate.dial import DialError, OwnAddressError, dial, first_refusal, look_up
from mirror.gate.hello import HelloError, hello_size, server_name
from mirror.gate.hosts import DEFAULT_PORTS, Endpoint, Name
from mirror.gate.http1 import HEAD_LIMIT, Answer, HttpError, end_to_end, parse_answer, render_head
from mirror.gate.limits import Usage
from mirror.gate.policy import Allow, Kind, Route, address_kind, deny
from mirror.gate.relay import Tunnel, transport_of
from mirror.gate.tokens import PREFIX, pick

_CHUNK = 64 * 1024
_ALL = 1 << 20
_INTERIM = 16
_STEERING = frozenset(
    (
        "authorization", "cookie", "forwarded", "x-original-url", "x-rewrite-url", "x-http-method",
        "x-http-method-override", "x-method-override", "x-original-host", "x-host",
    )
)  # fmt: skip


async def pinned(
    core: Core, exchange: Exchange, endpoint: Endpoint, grant: Allow | Route
) -> tuple[Address, ...]:
    """Give the addresses that may be dialled for an allowed endpoint. Raises Denied.

    The name is looked up once; what a second look-up would say does not matter any more.
    """
    if grant.address is not None:
        return (grant.address,)
    assert isinstance(endpoint.host, Name)  # noqa: S101 - decide() allows names only
    try:
        addresses = await look_up(endpoint.host, core.settings.resolver)
    except DialError as error:
        core.record("lookup", exchange.task, host=endpoint.host.text, addresses=[], reason=str(error))
        raise Denied(deny(Kind.UPSTREAM, f"{endpoint.host}: {error}", grant.rule)) from error
    refused = first_refusal(addresses)
    core.record(
        "lookup", exchange.task, host=endpoint.host.text, addresses=[str(a) for a in addresses],
        reason=str(refused or ""),
    )  # fmt: skip
    if refused:
        reason = f"{endpoint.host} leads to {refused}"
        ask = f'address = "{refused.address}" in the rule for {endpoint.host}'
        raise Denied(deny(address_kind(refused.kind), reason, grant.rule, ask))
    return addresses


async def tunnel(core: Core, exchange: Exchange, grant: Allow, usages: tuple[Usage, ...]) -> None:
    """Join the client to an allowed host, once its ClientHello names that host. Raises Denied."""
    endpoint = exchange.request.endpoint
    assert endpoint is not None  # noqa: S101 - decide() allows no request without
    addresses = await pinned(core, exchange, endpoint, grant)
    try:
        upstream = await dial(addresses, endpoint.port, own=grant.address is not None)
    except DialError as error:
        raise Denied(deny(_kind(error), f"{endpoint}: {error}", grant.rule)) from error
    begun, joined = time.monotonic(), Tunnel(usages, core.settings.idle_seconds)
    core.tunnels.add(joined)
    try:
        _record_connected(core, exchange, endpoint, upstream)
        exchange.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        first = await _hello(core, exchange, endpoint, grant)
        await joined.join(transport_of(exchange.writer), upstream, first, ended=exchange.reader.at_eof())
        await joined.done
    finally:
        joined.stop("gate closed")
        upstream.close()
        core.tunnels.discard(joined)
    with suppress(Denied):  # the log failed: the gate is closed by that, and the client is gone
        _record_end(core, exchange, grant, joined, time.monotonic() - begun)


def _record_connected(core: Core, exchange: Exchange, endpoint: Endpoint, upstream: socket.socket) -> None:
    """Write down who was reached, before anything is said to it. Raises Denied."""
    core.record(
        "connected", exchange.task, way=exchange.request.way.value, host=str(endpoint.host),
        port=endpoint.port, address=upstream.getpeername()[0],
    )  # fmt: skip


def _record_end(core: Core, exchange: Exchange, grant: Allow, ended: Tunnel, seconds: float) -> None:
    why = ended.done.result()
    core.record(
        "tunnel", exchange.task, **describe(exchange.request), rule=grant.rule, sent=ended.sent,
        received=ended.received, seconds=round(seconds, 3), ended=why,
    )  # fmt: skip
    if why == "budget":
        decision = deny(Kind.BUDGET, "the byte budget is spent", grant.rule)
        core.record_decision(exchange.task, exchange.request, decision)


async def _hello(core: Core, exchange: Exchange, endpoint: Endpoint, grant: Allow) -> bytes:
    """Read until the ClientHello is whole, and give all that came. Raises Denied."""
    data = b""
    try:
        async with asyncio.timeout(core.settings.head_seconds):
            while (size := hello_size(data)) is None or len(data) < size:
                more = await exchange.reader.read(_ALL)
                if not more:
                    raise HelloError("it ended before its ClientHello was whole")
                data += more
        named = server_name(data[:size])
    except (HelloError, TimeoutError) as error:
        reason = str(error) or "no ClientHello in time"
        raise Denied(deny(Kind.SERVER_NAME, f"tunnel to {endpoint.host}: {reason}", grant.rule)) from error
    if named != endpoint.host:
        raise Denied(
            deny(Kind.SERVER_NAME, f"a tunnel to {endpoint.host} asks the server for {named}", grant.rule)
        )
    return data


async def forward(core: Core, exchange: Exchange, grant: Allow, usages: tuple[Usage, ...]) -> None:
    """Hand a plain request on. Raises Denied."""
    endpoint = exchange.request.endpoint
    assert endpoint is not None  # noqa: S101 - decide() allows no request without
    dropped = ["host"]
    if (pick(exchange.head.get("authorization") or "") or "").startswith(PREFIX):
        dropped.append("authorization")
    headers = end_to_end(exchange.head.headers, *dropped)
    call = _Call(endpoint, exchange.request.path, headers, grant, usages, None)
    await _call(core, exchange, call)


async def routed(core: Core, exchange: Exchange, route: Route, usages: tuple[Usage, ...]) -> None:
    """Hand a request on to a route's upstream, with the route's credential. Raises Denied."""
    headers = end_to_end(exchange.head.headers, "host")
    own = route.credential.header.lower() if route.credential else ""
    headers = tuple(pair for pair in headers if not _steers(pair[0], own))
    if route.credential:
        headers = (*headers, (route.credential.header, core.settings.secrets[route.name]))
    path = route.base + exchange.request.path
    tls = core.settings.tls if route.tls else None
    await _call(core, exchange, _Call(route.endpoint, path, headers, route, usages, tls))


def _steers(name: str, credential: str) -> bool:
    """Say whether a header speaks for the sandbox, or of another method, path or host than the gate saw.

    Many servers take `_` in a name for `-`.
    """
    plain = name.replace("_", "-")
    return plain in _STEERING or plain.startswith("x-forwarded-") or plain == credential.replace("_", "-")


@dataclass(slots=True)
class _Call:
    """One request on its way; `sent` are all its bytes, `received` those of the answer's body."""

    endpoint: Endpoint
    path: str
    headers: tuple[tuple[str, str], ...]
    grant: Allow | Route
    usages: tuple[Usage, ...]
    tls: ssl.SSLContext | None
    status: int = 0
    sent: int = 0
    received: int = 0

    @property
    def host(self) -> str:
        usual = DEFAULT_PORTS["https" if self.tls else "http"]
        return str(self.endpoint.host) if self.endpoint.port == usual else str(self.endpoint)

    def count(self, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes. Raises _OverError where a budget has no room for them."""
        self.sent += sent
        self.received += received
        for usage in self.usages:
            usage.sent += sent
            usage.received += received
        if any(usage.over for usage in self.usages):
            raise _OverError("the byte budget is spent")


class _OverError(ConnectionError):
    """A budget is spent."""


async def _call(core: Core, exchange: Exchange, call: _Call) -> None:
    """Send one request on a connection of its own, so that no other can be hidden in it."""
    addresses = await pinned(core, exchange, call.endpoint, call.grant)
    problem: Exception | None = None
    try:
        async with _connection(core, exchange, call, addresses) as (reader, writer):
            await _converse(core, exchange, call, reader, writer)
    except (DialError, HttpError, OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        problem = error
    finally:
        core.record(
            "request", exchange.task,
            **describe(exchange.request) | {"host": str(call.endpoint.host), "port": call.endpoint.port},
            rule=call.grant.rule, status=call.status, sent=call.sent, received=call.received,
        )  # fmt: skip
    if problem is None:
        return
    decision = deny(_kind(problem), f"{call.endpoint.host}: {_words(problem)}", call.grant.rule)
    if not call.status:
        raise Denied(decision) from problem
    # The answer has begun: only a broken connection can tell the client that it is not whole.
    exchange.writer.transport.abort()
    core.record_decision(exchange.task, exchange.request, decision)


async def _converse(
    core: Core, exchange: Exchange, call: _Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    first = f"{exchange.request.method} {call.path} HTTP/1.1"
    head = render_head(first, (("Host", call.host), *call.headers, ("Connection", "close")))
    call.count(sent=len(head))  # a head carries as much out as a body does
    writer.write(head)
    sending = asyncio.create_task(_send_body(core, exchange, call, writer))
    try:
        answer = await _answer(core, reader)
        await _give_back(core, exchange, call, answer, reader)
    except (OSError, asyncio.IncompleteReadError):
        if sending.done() and (problem := sending.exception()):
            raise problem from None
        raise
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.exception()  # told already, or of no matter once the answer is whole


def _kind(error: Exception) -> Kind:
    if isinstance(error, _OverError):
        return Kind.BUDGET
    return Kind.PRIVATE if isinstance(error, OwnAddressError) else Kind.UPSTREAM


def _words(error: Exception) -> str:
    """Say what went wrong with an upstream, without what it may have sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, asyncio.IncompleteReadError):
        return "it ended before its answer"
    return str(error) or "no answer in time"


@asynccontextmanager
async def _connection(
    core: Core, exchange: Exchange, call: _Call, addresses: tuple[Address, ...]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    upstream = await dial(addresses, call.endpoint.port, own=call.grant.address is not None)
    try:
        _record_connected(core, exchange, call.endpoint, upstream)
    except Denied:
        upstream.close()
        raise
    name = str(call.endpoint.host) if call.tls else None
    reader, writer = await asyncio.open_connection(
        sock=upstream, ssl=call.tls, server_hostname=name, limit=HEAD_LIMIT
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _send_body(core: Core, exchange: Exchange, call: _Call, writer: asyncio.StreamWriter) -> None:
    """Send exactly the body's bytes; where they do not come, the upstream's connection ends."""
    rest = exchange.head.length
    try:
        while rest:
            async with asyncio.timeout(core.settings.idle_seconds):
                data = await exchange.reader.read(min(rest, _CHUNK))
                if not data:
                    raise ConnectionError("the client ended in the middle of its request")
                call.count(sent=len(data))
                writer.write(data)
                await writer.drain()
            rest -= len(data)
    except (OSError, TimeoutError):
        writer.transport.abort()
        raise


async def _answer(core: Core, reader: asyncio.StreamReader) -> Answer:
    for _ in range(_INTERIM):
        async with asyncio.timeout(core.settings.idle_seconds):
            try:
                answer = parse_answer(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.LimitOverrunError as error:
                raise HttpError(502, "the head of the answer is too large") from error
        if answer.status == 101:
            raise HttpError(502, "the upstream changes the protocol")
        if answer.status >= 200:
            return answer
    raise HttpError(502, "the upstream gives interim answers without end")


async def _give_back(
    core: Core, exchange: Exchange, call: _Call, answer: Answer, reader: asyncio.StreamReader
) -> None:
    """Hand an answer to the client; its connection ends with it."""
    writer, call.status = exchange.writer, answer.status
    headers = (*end_to_end(answer.headers), ("Connection", "close"))
    writer.write(render_head(f"HTTP/1.1 {answer.status} Upstream", headers))
    bodiless = exchange.request.method == "HEAD" or answer.status in (204, 304)
    rest = 0 if bodiless else answer.length
    while rest is None or rest > 0:
        async with asyncio.timeout(core.settings.idle_seconds):
            data = await reader.read(_CHUNK if rest is None else min(rest, _CHUNK))
            if not data:
                break
            call.count(received=len(data))
            writer.write(data)
            await writer.drain()
        rest = rest if rest is None else rest - len(data)
    if rest:
        raise ConnectionError("the upstream ended in the middle of its answer")
    await writer.drain()
