"""The listener: one door, on a unix socket whose file is the task's identity, or on TCP with tokens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from mirror.gate.core import Core, Denied, Exchange, Identify, Identity, Settings, shown_target
from mirror.gate.errors import GateError, TokenError
from mirror.gate.hosts import HostError, parse_endpoint
from mirror.gate.http1 import HEAD_LIMIT, Head, HttpError, parse_head
from mirror.gate.inward import serve
from mirror.gate.limits import NO_LIMITS, Usage
from mirror.gate.log import Log
from mirror.gate.outward import forward, routed, tunnel
from mirror.gate.policy import Allow, Kind, Route, decide, deny, unreadable
from mirror.gate.requests import Request, Way, read_request
from mirror.gate.seccomp import Filter
from mirror.gate.watch import Watch

_CHUNK = 256 * 1024
_BACKLOG = 1024
_KNOWN = 4096
_LINGER = 1.0
_LINGER_BYTES = 1 << 18


class Gate:
    """A gate that listens. `task` is who comes by a unix socket; `identify` asks tokens on TCP."""

    def __init__(
        self, settings: Settings, log: Log, *, task: str = "", identify: Identify | None = None
    ) -> None:
        self.core = Core(settings, log)
        self._settings = settings
        self._task = task
        self._identify = identify or (lambda head, operation: Identity(task))
        self._known: set[Identity] = set()
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self.watch = Watch(self.core, task)
        self.filter = Filter(self.core, task)
        self.core.record("start", task, name=settings.policy.name)

    @property
    def port(self) -> int:
        """The TCP port it listens on, 0 where there is none."""
        names = [socket.getsockname() for server in self._servers for socket in server.sockets]
        return next((int(name[1]) for name in names if isinstance(name, tuple)), 0)

    @property
    def note(self) -> str:
        """The last signed checkpoint: the one to keep elsewhere."""
        return self.core.note

    async def listen_unix(self, path: Path) -> None:
        """Listen on a socket file, which everyone in the sandbox may use. Raises GateError."""
        try:
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._client, path, limit=HEAD_LIMIT, backlog=_BACKLOG)
            path.chmod(0o666)
        except OSError as error:
            raise GateError(f"cannot listen: {error.strerror or error}", where=str(path)) from error
        self._servers.append(server)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on TCP and give the port. Raises GateError."""
        try:
            server = await asyncio.start_server(self._client, host, port, limit=HEAD_LIMIT, backlog=_BACKLOG)
        except OSError as error:
            raise GateError(f"cannot listen: {error.strerror or error}", where=f"{host}:{port}") from error
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take no more, end what is open, and write that down; the log stays open."""
        for server in self._servers:
            server.close()
        await self.watch.close()
        self.filter.close()
        for tunnel_ in list(self.core.tunnels):
            tunnel_.stop("gate closed")
        if self._clients:
            await asyncio.wait(self._clients, timeout=_LINGER)
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if not self.core.failure:
            self.core.settle()
            with suppress(Denied):  # told by the failure of the core
                self.core.record("stop", self._task)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - asyncio runs this in a task
        self._clients.add(me)
        try:
            while await self._exchange(reader, writer):
                pass
            writer.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(self._settings.idle_seconds):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # the client went, or takes nothing, or the gate closes
        finally:
            self._clients.discard(me)
            writer.transport.abort()  # close() would keep what is not taken for as long as the client likes

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; says whether the connection goes on."""
        head: Head | None = None
        try:
            self._check_open()
            head = await self._head(reader)
            if head is None:
                return False
            return await self._serve(self._read(head, reader, writer))
        except Denied as denied:
            await self._refuse(denied, head, reader, writer)
            return False

    def _check_open(self) -> None:
        """See that the gate takes requests. Raises Denied."""
        if self.core.failure:
            raise Denied(deny(Kind.CLOSED, "the gate is closed, for it cannot keep its log", "log"))
        if len(self._clients) > self._settings.connections:
            decision = deny(Kind.CLOSED, "too many connections at a time", "gate")
            self.core.record_denied("blocked", self._task, kind=decision.kind.value, reason=decision.reason)
            raise Denied(decision)

    async def _head(self, reader: asyncio.StreamReader) -> Head | None:
        """Read a head, or None where none begins: the client is gone, or has nothing more to ask."""
        seconds = self._settings.head_seconds
        try:
            async with asyncio.timeout(seconds):
                first = await reader.read(1)
        except TimeoutError:
            return None
        if not first:
            return None
        try:
            if first in b"\r\n":
                raise HttpError(400, "an empty line before the request")
            async with asyncio.timeout(seconds):
                return parse_head(first + await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError:
            problem = HttpError(400, "the head ended in the middle")
        except asyncio.LimitOverrunError:
            problem = HttpError(431, "the head is too large")
        except TimeoutError:
            problem = HttpError(408, "the head did not come in time")
        except HttpError as error:
            problem = error
        decision = deny(Kind.MALFORMED, str(problem), "parser")
        self.core.record_denied("blocked", self._task, kind=decision.kind.value, reason=decision.reason)
        raise Denied(decision, problem.status)

    def _read(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
        """Read what is asked for and by whom. Raises Denied."""
        try:
            request = read_request(head.method, head.target)
            _check_host(head, request)
        except HostError as error:
            decision = unreadable(error)
            self.core.record_denied(
                "blocked", self._task, kind=decision.kind.value, reason=decision.reason,
                method=head.method, target=shown_target(head.target),
            )  # fmt: skip
            raise Denied(decision) from error
        try:
            who = self._identify(head, request.way.value)
        except (TokenError, GateError) as error:
            self.core.record_denied("blocked", self._task, kind=Kind.TOKEN.value, reason=error.reason)
            raise Denied(deny(Kind.TOKEN, error.reason, "token", "a token: `mirror token mint`")) from error
        if who.token and who not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()  # they are written down again, then
            self._known.add(who)
            self.core.record_use(who)
        return Exchange(task=who.task, head=head, request=request, reader=reader, writer=writer)

    async def _serve(self, exchange: Exchange) -> bool:
        core, request = self.core, exchange.request
        decision = decide(self._settings.policy, request)
        grant = self._settings.policy.granted(decision.rule) if decision.allowed else None
        usages = core.usages(exchange.task, decision.rule, grant.limits if grant else NO_LIMITS)
        try:
            if decision.allowed:
                core.admit(usages, decision.rule)
            core.record_decision(exchange.task, request, decision, "policy")
            if decision.allowed:
                return await self._go(exchange, grant, usages)
        except Denied as denied:
            if denied.decision.kind is not Kind.CLOSED:
                core.record_decision(exchange.task, request, denied.decision)
            raise
        raise Denied(decision)

    async def _go(self, exchange: Exchange, grant: Allow | Route | None, usages: tuple[Usage, ...]) -> bool:
        match grant:
            case Route():
                await routed(self.core, exchange, grant, usages)
            case Allow() if exchange.request.way is Way.TUNNEL:
                await tunnel(self.core, exchange, grant, usages)
            case Allow():
                await forward(self.core, exchange, grant, usages)
            case None:
                return await serve(self.core, exchange, usages)
        return False

    async def _refuse(
        self, denied: Denied, head: Head | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Tell the client; whatever it sent after the request is read away and never looked at."""
        if denied.decision.kind is Kind.SERVER_NAME:
            writer.transport.abort()  # the tunnel was opened: there is no way to answer inside of it
            return
        writer.write(self.core.denial(denied, head))
        async with asyncio.timeout(_LINGER):
            await writer.drain()
            writer.write_eof()
            rest = _LINGER_BYTES
            while rest > 0 and (data := await reader.read(_CHUNK)):
                rest -= len(data)


def _check_host(head: Head, request: Request) -> None:
    """Refuse a Host header that names another place than the target does. Raises HostError."""
    host = head.get("host")
    if host is None or request.endpoint is None:
        return
    if parse_endpoint(host, request.endpoint.port) != request.endpoint:
        raise HostError("the Host header names another place than the request")
