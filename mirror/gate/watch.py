"""Writes down what a sandbox sent past the gate, as the watch at the end of its only route tells it."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mirror.gate.core import Core, Denied
from mirror.gate.errors import GateError
from mirror.gate.hosts import HostError, parse_name
from mirror.gate.policy import Kind, past_the_gate

_LINE_LIMIT = 4096
_NAME_LIMIT = 253
_PORT_LIMIT = 65535
_PROTOCOL = re.compile(r"[a-z0-9]{1,10}")
RULE = "through the gate only"


class WatchError(ValueError):
    """A line is none that a watch writes."""


class Watch:
    """Listens for the one watch of a task.

    `begun` is set when it is there, and `on`, or could not be; `ended` when it is gone.
    """

    def __init__(self, core: Core, task: str) -> None:
        self.on = False
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self._core = core
        self._task = task
        self._server: asyncio.Server | None = None
        self._taking: asyncio.Task[None] | None = None

    async def listen(self, path: Path) -> None:
        """Listen on a socket file, which the watch alone is given. Raises GateError."""
        try:
            self._server = await asyncio.start_unix_server(self._taken, path, limit=_LINE_LIMIT)
            path.chmod(0o666)
        except OSError as error:
            raise GateError(f"cannot listen: {error.strerror or error}", where=str(path)) from error

    async def close(self) -> None:
        """Take no watch any more; one that is still there is lost."""
        if self._server:
            self._server.close()
        if self._taking:
            self._taking.cancel()
            await asyncio.wait([self._taking])

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take what the first that comes tells, until its end."""
        if self._taking:
            writer.close()
            return
        self._taking = asyncio.current_task()
        state = "lost"
        try:
            while line := await reader.readline():
                state = self._take(line) or state
        except (OSError, ValueError, Denied, asyncio.CancelledError):
            state = "lost"  # not a watch, or the gate is closed: the connection ends, and so does the route
        finally:
            writer.close()
        with suppress(Denied):  # the log failed: the gate is closed by that
            if self.on:
                self._core.record("watch", self._task, state=state)
        self.begun.set()
        self.ended.set()

    def _take(self, line: bytes) -> str:
        """Write one line down; gives the state that it tells of. Raises WatchError."""
        told = _object(line)
        if told.get("ready") is True:
            self._core.record("watch", self._task, state="on")
            self.on = True
            self.begun.set()
            return ""
        if "unread" in told:
            if count := _count(told["unread"]):
                reason = "packets that came faster than they could be read: they went nowhere"
                fields = {"kind": Kind.PACKET.value, "reason": reason, "rule": RULE, "others": True}
                self._core.record("blocked", self._task, **fields, times=count)
            return "off"
        self._core.record_denied("blocked", self._task, rule=RULE, **attempt(told))
        return ""


def attempt(told: dict[str, Any]) -> dict[str, Any]:
    """Give what a packet attempted as fields of a record, trusting nothing of it. Raises WatchError."""
    protocol, name = told.get("protocol"), told.get("name", "")
    if not isinstance(protocol, str) or not _PROTOCOL.fullmatch(protocol):
        raise WatchError("no protocol")
    if "address" not in told:
        return {"kind": Kind.PACKET.value, "reason": "no packet that can be read", "protocol": protocol}
    address = ip_address(str(told["address"]))
    fields: dict[str, Any] = {"protocol": protocol, "host": str(address)}
    if "port" in told:
        fields["port"] = _count(told["port"])
    if name:
        return {**fields, **_look_up(name)}
    kind, what = past_the_gate(address)
    return {**fields, "kind": kind.value, "reason": f"{protocol} past the gate, to {what}"}


def _look_up(name: object) -> dict[str, str]:
    if not isinstance(name, str) or len(name) > _NAME_LIMIT or not (name.isascii() and name.isprintable()):
        raise WatchError("no name")
    reason = "a look-up past the gate, which alone looks names up"
    fields = {"kind": Kind.LOOK_UP.value, "name": name, "reason": reason}
    try:
        return {**fields, "ask": f'a client that uses the proxy, and [[allow]] host = "{parse_name(name)}"'}
    except HostError:
        return fields


def _object(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WatchError("not a line of JSON") from error
    if not isinstance(told, dict):
        raise WatchError("not an object")
    return told


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise WatchError("not a number")
    return value
