"""A package index at the far end of a line: `python -m benchmarks.line TREE PORT` serves a static tree.

Each answer begins LATENCY seconds after its request, and all connections together get RATE bytes a
second. The bytes go out by sendfile, so that the CPU is left to those who ask.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from urllib.parse import unquote

from mirror.serve.negotiate import JSON_TYPE

LATENCY = 0.025
RATE = 500_000_000 / 8
_PART = 1 << 18  # bytes that a connection may send at a time
_BURST = 0.005  # seconds; asyncio's timers are not finer than a millisecond


class Line:
    """What all connections share: one after the other, each part takes its time on the line."""

    def __init__(self) -> None:
        self._free = 0.0

    async def take(self, size: int) -> None:
        """Wait until the line has room for these bytes."""
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / RATE
        if self._free - now > _BURST:
            await asyncio.sleep(self._free - now)


async def answer(tree: Path, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until the client closes it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await asyncio.sleep(LATENCY)
            await send(found(tree, head), line, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def found(tree: Path, head: str) -> Path:
    """Give the file that a request is for; a folder is its page, as JSON where the client takes that."""
    path = tree / unquote(head.split(" ", 2)[1]).strip("/")
    return path / ("index.json" if JSON_TYPE in head else "index.html") if path.is_dir() else path


async def send(path: Path, line: Line, writer: asyncio.StreamWriter) -> None:
    if not path.is_file():
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    size = path.stat().st_size
    kind = {".json": JSON_TYPE, ".html": "text/html"}.get(path.suffix, "application/octet-stream")
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode())
    with path.open("rb") as file:
        for offset in range(0, size, _PART):
            part = min(_PART, size - offset)
            await line.take(part)
            await asyncio.get_running_loop().sendfile(writer.transport, file, offset, part)


async def serve(tree: Path, port: int) -> None:
    line = Line()
    async with await asyncio.start_server(
        lambda reader, writer: answer(tree, line, reader, writer), "127.0.0.1", port, backlog=1000
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
