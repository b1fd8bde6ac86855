"""Moves bytes between two connections, counts them against budgets, and ends what is idle."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from mirror.gate.limits import Usage

Transport = asyncio.Transport


class Tunnel:
    """Two connections joined; `done` is set when both are at their end, to why it ended early or ''."""

    def __init__(self, usages: tuple[Usage, ...], idle: float) -> None:
        self.sent = 0
        self.received = 0
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[str] = self._loop.create_future()
        self._usages = usages
        self._idle = idle
        self._moved = self._loop.time()
        self._ends: tuple[_End, ...] = ()
        self._timer = self._loop.call_later(idle, self._look)

    async def join(self, client: Transport, upstream: socket.socket, first: bytes, *, ended: bool) -> None:
        """Take both over; `first` was read from the client, who has `ended` if nothing more will come."""
        client.pause_reading()
        inner, outer = _End(self, self._count_sent), _End(self, self._count_received)
        inner.peer, outer.peer = outer, inner
        inner.connection_made(client)
        await self._loop.create_connection(lambda: outer, sock=upstream)
        self._ends = (inner, outer)
        client.set_protocol(inner)
        inner.data_received(first)
        if ended:
            inner.eof_received()
        elif not client.is_closing():
            client.resume_reading()

    def stop(self, why: str) -> None:
        """End both connections at once."""
        self._finish(why)
        for end in self._ends:
            end.transport.abort()

    def lost(self) -> None:
        """Take note that a connection is gone; what the other still has to send is sent."""
        for end in self._ends:
            end.transport.close()
        if all(end.gone for end in self._ends):
            self._finish("")

    def _finish(self, why: str) -> None:
        self._timer.cancel()
        if not self.done.done():
            self.done.set_result(why)

    def _count_sent(self, count: int) -> bool:
        self.sent += count
        for usage in self._usages:
            usage.sent += count
        return self._counted()

    def _count_received(self, count: int) -> bool:
        self.received += count
        for usage in self._usages:
            usage.received += count
        return self._counted()

    def _counted(self) -> bool:
        self._moved = self._loop.time()
        if any(usage.over for usage in self._usages):
            self.stop("budget")
        return not self.done.done()

    def _look(self) -> None:
        rest = self._moved + self._idle - self._loop.time()
        if rest <= 0:
            self.stop("idle")
        else:
            self._timer = self._loop.call_later(rest, self._look)


class _End(asyncio.Protocol):
    """One of the two connections: what comes in here goes out at the peer."""

    peer: _End
    transport: Transport

    def __init__(self, tunnel: Tunnel, count: Callable[[int], bool]) -> None:
        self._tunnel = tunnel
        self._count = count
        self._ended = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("Transport", transport)
        self.gone = transport.is_closing()

    def data_received(self, data: bytes) -> None:
        if data and self._count(len(data)):
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """Hand a half-closed connection's end on; both are closed when both have ended."""
        self._ended = True
        if self.peer.transport.is_closing() or self.peer._ended:
            self._tunnel.lost()
            return False
        self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        self.peer.pause(True)

    def resume_writing(self) -> None:
        self.peer.pause(False)

    def pause(self, wanted: bool) -> None:
        """Stop or go on reading, while the other side is slower."""
        if not self.transport.is_closing():
            (self.transport.pause_reading if wanted else self.transport.resume_reading)()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._tunnel.lost()


def transport_of(writer: asyncio.StreamWriter) -> Transport:
    """Give the transport of a stream."""
    return cast("Transport", writer.transport)
