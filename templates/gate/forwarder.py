"""Runs inside a sandbox: hands connections to a loopback port on to the gate's socket, beside one command.

    python3 -I forwarder.py SOCKET PORT -- COMMAND…

Is the first program there, its init; ends with the command's exit code. Standard library only, from Python
3.8 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import ClassVar

_CHUNK = 65536
_SAID = 50
# What a gate answers, as mirror/gate/core.py writes it.
_REFUSED = re.compile(rb"HTTP/1\.1 [45][0-9]{2} (lockstock: [ -~]+)\r\n")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class _Ear:
    """Hears whether a tunnel was asked for and refused, and says why: curl and git tell the status alone."""

    said: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self._tunnel = False

    def asked(self, data: bytes) -> None:
        self._tunnel = data.startswith(b"CONNECT ")

    def answered(self, data: bytes) -> None:
        refused = _REFUSED.match(data) if self._tunnel else None
        if refused and len(self.said) < _SAID and (reason := refused[1].decode()) not in self.said:
            self.said.add(reason)
            print(reason, file=sys.stderr, flush=True)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hear: Callable[[bytes], None]
) -> None:
    """Move bytes one way until their end, and hand that on, too; `hear` is given the first of them."""
    try:
        while True:
            data = await reader.read(_CHUNK)
            if not data:
                break
            hear(data)
            hear = _deaf
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


def _deaf(data: bytes) -> None:
    """Hear nothing."""


async def main(socket: str, port: int, command: list[str]) -> int:
    """Listen, run the command, and give its exit code."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_unix_connection(socket)
        except OSError:
            writer.transport.abort()
            return
        ear = _Ear()
        try:
            await asyncio.gather(_pump(reader, outer, ear.asked), _pump(inner, writer, ear.answered))
        except asyncio.CancelledError:
            return  # the command has ended; some versions of asyncio would print that
        finally:
            outer.close()
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", port, backlog=1024)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, ended.set)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigdef=_IGNORED_BY_PYTHON)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if error.errno == errno.ENOENT else 126  # as a shell says it
    for number in _SIGNALS:
        loop.add_signal_handler(number, _hand_on, child, number)
    while (status := _reap(child)) is None:
        await ended.wait()
        ended.clear()
    server.close()
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _hand_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _reap(child: int) -> int | None:
    """Take what has ended, as an init must; gives the child's status once that is among it."""
    ended, status = os.waitpid(-1, os.WNOHANG)
    while ended not in (0, child):
        ended, status = os.waitpid(-1, os.WNOHANG)
    return status if ended else None


if __name__ == "__main__":
    split = sys.argv.index("--")
    place, number = sys.argv[1:split]
    sys.exit(asyncio.run(main(place, int(number), sys.argv[split + 1 :])))
