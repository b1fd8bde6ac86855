"""Answers a sandbox's filter, which asks before a socket is opened that leads past its network: always no.

The filter is `templates/gate/filter.py`. What is spoken with the kernel here is in seccomp_unotify(2).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from mirror.gate.core import Core, Denied, printable
from mirror.gate.errors import GateError
from mirror.gate.policy import Kind
from mirror.gate.watch import RULE

_TEXT_LIMIT = 200
_LISTENER = "anon_inode:seccomp notify"
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
# The kernel's structures may grow, and have 80 and 24 bytes today: it finds room, and zeros in it.
_ROOM = 512
_NOTICE, _ANSWER = struct.Struct("=QIIiIQ3Q"), struct.Struct("=QqiI")
_SOCKETCALL = (0x40000003, 102)  # of programs of 32 bits
_INT, _TYPE_MASK = 0xFFFFFFFF, 0xF
# The program was killed, or interrupted and asks again.
_GONE = (errno.ENOENT, errno.EINTR, errno.EINPROGRESS)
# By include/linux/socket.h; those that are met, the others are told by their number.
_FAMILIES = {
    2: "INET",
    10: "INET6",
    15: "KEY",
    17: "PACKET",
    21: "RDS",
    29: "CAN",
    30: "TIPC",
    31: "BLUETOOTH",
}
_FAMILIES |= {38: "ALG", 40: "VSOCK", 42: "QIPCRTR", 43: "SMC", 44: "XDP"}
_NETWORKED = (2, 10, 17)
_TYPES = {kind.value: kind.name for kind in socket.SocketKind} | {10: "SOCK_PACKET"}


class Filter:
    """Listens for the one filter of a task. `on` says whether it is there, and `problem` why it is not."""

    def __init__(self, core: Core, task: str) -> None:
        self.on = False
        self.problem = ""
        self._core = core
        self._task = task
        self._held: socket.socket | io.FileIO | None = None

    def listen(self, path: Path) -> None:
        """Listen on a socket file, which the sandbox's first program alone may use. Raises GateError."""
        server = socket.socket(socket.AF_UNIX)
        try:
            server.bind(str(path))
            path.chmod(0o666)
            server.listen(1)
        except OSError as error:
            server.close()
            raise GateError(f"cannot listen: {error.strerror or error}", where=str(path)) from error
        self._hold(server, partial(self._accept, server))

    def close(self) -> None:
        """Answer no more: the kernel refuses by itself what is asked after this."""
        if self._held and not self.on and not self.problem:
            self._state("none", "the sandbox's first program did not tell of it")
        self._release()

    def _hold(self, source: socket.socket | io.FileIO, react: Callable[[], None]) -> None:
        """Wait for what comes from here, and from nowhere else any more."""
        self._release()
        self._held = source
        asyncio.get_running_loop().add_reader(source, react)

    def _release(self) -> None:
        if self._held:
            asyncio.get_running_loop().remove_reader(self._held)
            self._held.close()
            self._held = None

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError as error:
            self._state("none", error.strerror or "")
            self._release()
            return
        self._hold(connection, partial(self._take, connection))

    def _take(self, connection: socket.socket) -> None:
        """Take the filter, or why there is none; who gives neither gets no answer, and so no command."""
        listener, reason = _received(connection)
        if listener:
            self._state("on")
        else:
            self._state("none", reason or "what the sandbox's first program gave is no filter")
        if (listener or reason) and not self._core.failure:
            with suppress(OSError):  # it is gone, and will start nothing
                connection.send(b".")
        if listener:
            self._hold(listener, partial(self._refuse, listener))
        else:
            self._release()

    def _refuse(self, listener: io.FileIO) -> None:
        """Write one attempt down, and answer it. Without an answer the kernel refuses it as well."""
        events = _events(listener)
        if events & select.POLLIN:
            try:
                notice = _receive(listener)
                self._core.record_denied("blocked", self._task, rule=RULE, **attempt(notice))
                _send(listener, notice)
            except Denied:  # the log failed: the gate is closed by that
                self._release()
            except OSError as error:
                if error.errno not in _GONE:
                    self._state("lost", error.strerror or "")
                    self._release()
        elif events:
            self._release()  # all programs that had the filter have ended

    def _state(self, state: str, reason: str = "") -> None:
        self.on, self.problem = state == "on", reason
        with suppress(Denied):  # told by the failure of the core
            self._core.record("filter", self._task, state=state, **({"reason": reason} if reason else {}))


def attempt(notice: bytes) -> dict[str, str]:
    """Give what a program asked the kernel for as fields of a record."""
    _, _, _, number, abi, _, *arguments = _NOTICE.unpack_from(notice)
    if (abi, number) == _SOCKETCALL:
        reason = "a socket asked for by socketcall, which hides its kind: no program here may open one so"
        return {"kind": Kind.SOCKET.value, "socket": "socketcall", "reason": reason}
    family, kind, protocol = (argument & _INT for argument in arguments)
    name = f"AF_{_FAMILIES.get(family, family)}"
    type_ = kind & _TYPE_MASK
    shown = f"{name} {_TYPES.get(type_, type_)} {protocol}"
    if family in _NETWORKED:
        reason = "a raw socket: no program here may open one"
        return {"kind": Kind.RAW_SOCKET.value, "socket": shown, "reason": reason}
    reason = f"a socket of family {name}, which leads past the sandbox's network"
    return {"kind": Kind.SOCKET.value, "socket": shown, "reason": reason}


def _received(connection: socket.socket) -> tuple[io.FileIO | None, str]:
    """Give the filter's listening end, or else the reason why there is none, or neither."""
    try:
        text, given, _, _ = socket.recv_fds(connection, _TEXT_LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None, ""
    if not given:
        return None, printable(text.decode("ascii", "replace"))
    if str(Path(f"/proc/self/fd/{given[0]}").readlink()) == _LISTENER:
        return io.FileIO(given[0], "r+"), ""
    os.close(given[0])
    return None, ""


def _events(listener: io.FileIO) -> int:
    """Give what is to be had without waiting: asyncio calls at the end of all programs, too."""
    polled = select.poll()
    polled.register(listener, select.POLLIN)
    return next((events for _, events in polled.poll(0)), 0)


def _receive(listener: io.FileIO) -> bytes:
    notice = bytearray(_ROOM)
    fcntl.ioctl(listener, _RECEIVE, notice)
    return bytes(notice)


def _send(listener: io.FileIO, notice: bytes) -> None:
    answer = _ANSWER.pack(_NOTICE.unpack_from(notice)[0], 0, -errno.EPERM, 0)
    fcntl.ioctl(listener, _SEND, answer.ljust(_ROOM, b"\0"))
