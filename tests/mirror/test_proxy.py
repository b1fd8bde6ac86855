"""A devpi that breaks off in the middle of an answer, as clients of `mirror serve` see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mirror.serve.proxy import Proxy

BODY = b"A" * 1000


@asynccontextmanager
async def in_front_of(sent: bytes) -> AsyncIterator[int]:
    """Give the port of a proxy before a server that sends this to everyone, and ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as backend:
        proxy = Proxy(backend.sockets[0].getsockname()[1])
        app = web.Application()
        app.cleanup_ctx.append(proxy.run)
        app.router.add_route("*", "/{path:.*}", proxy.forward)
        async with TestServer(app) as server:
            assert server.port
            yield server.port


async def asked(port: int, version: str = "1.1") -> tuple[bytes, bool]:
    """Give all that the proxy sends to one request, and whether it ends with a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /a-1.0.tar.gz HTTP/{version}\r\nHost: mirror\r\n\r\n".encode())
    received = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(4096), 5):
            received += chunk
    except ConnectionResetError:
        return received, True
    finally:
        writer.close()
    return received, False


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 1200\r\n\r\n" + BODY,
        b"Content-Length: 100000\r\n\r\n" + BODY,
        b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + BODY + b"\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_cut_off_and_no_second_one_begins(sent: bytes, version: str) -> None:
    async def received() -> tuple[bytes, bool]:
        async with in_front_of(b"HTTP/1.1 200 OK\r\n" + sent) as port:
            return await asked(port, version)

    told, reset = asyncio.run(received())
    assert told.startswith(f"HTTP/{version} 200 OK\r\n".encode())
    assert BODY in told
    assert (b"502" in told, b"devpi" in told, told.endswith(b"0\r\n\r\n"), reset) == (
        False,
        False,
        False,
        True,
    )


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
def test_one_that_does_not_begin_is_a_bad_gateway(sent: bytes) -> None:
    async def received() -> tuple[bytes, bool]:
        async with in_front_of(sent) as port:
            return await asked(port, "1.0")

    told, reset = asyncio.run(received())
    assert told.startswith(b"HTTP/1.0 502 Bad Gateway\r\n")
    assert (told.endswith(b"devpi does not answer\n"), reset) == (True, False)
