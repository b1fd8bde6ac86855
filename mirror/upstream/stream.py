"""Connections for httpcore on asyncio's own streams.

httpcore's own read one TLS record at a time, each in a cancel scope of its own: that was a third of the
CPU of a fill. Here a read gives all that has come, up to what is asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore

_HELD = 1 << 18  # bytes that may wait to be read


async def open_stream(
    address: str, port: int, timeout: float | None = None, local_address: str | None = None
) -> httpcore.AsyncNetworkStream:
    """Connect to an IP address. Raises ConnectError or ConnectTimeout of httpcore."""
    protocol = _protocol()
    loop = asyncio.get_running_loop()
    local = (local_address, 0) if local_address else None
    async with _faults(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
        transport, _ = await loop.create_connection(lambda: protocol, address, port, local_addr=local)
    return _Stream(transport, protocol)


class _Reader(asyncio.StreamReader):
    """Knows how much it holds that nobody has read yet."""

    held = 0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # transports give nothing else
        self.held += len(data)
        super().feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        self.held -= len(data)
        return data


class _Protocol(asyncio.StreamReaderProtocol):
    def __init__(self, reader: _Reader) -> None:
        super().__init__(reader)
        self.reader = reader


def _protocol() -> _Protocol:
    return _Protocol(_Reader(limit=_HELD))


class _Stream(httpcore.AsyncNetworkStream):
    """One connection, with or without TLS."""

    def __init__(
        self, transport: asyncio.Transport, protocol: _Protocol, plain: _Stream | None = None
    ) -> None:
        self._reader = protocol.reader
        self._plain = plain  # which would close the connection below this one when nobody held it
        self._writer = asyncio.StreamWriter(transport, protocol, protocol.reader, asyncio.get_running_loop())

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        async with _faults(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            # All that is held: to pass it on in the small parts that httpcore asks for takes longer.
            return await self._reader.read(max(max_bytes, _HELD))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        async with _faults(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()  # without waiting: the other side may never answer

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        protocol, plain = _protocol(), self._writer.transport
        async with _faults(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            transport = await asyncio.get_running_loop().start_tls(
                plain, protocol, ssl_context, server_hostname=server_hostname
            )
        if transport is None:
            raise httpcore.ConnectError("the connection was closed")
        protocol.connection_made(transport)
        return _Stream(transport, protocol, self)

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        if info == "is_readable":  # of an idle connection: it was closed, or says what nobody asked for
            reader = self._reader  # of which a reset leaves the error and no end
            return reader.held > 0 or reader.at_eof() or reader.exception() is not None
        return self._writer.get_extra_info(names.get(info, info))


@asynccontextmanager
async def _faults(
    timeout: float | None, late: type[httpcore.TimeoutException], broken: type[httpcore.NetworkError]
) -> AsyncIterator[None]:
    """Limit the block's seconds, and turn its errors into httpcore's."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, ssl.SSLError) as error:
        raise broken(str(error)) from error
