"""The way in: the mirror's own tree, of which each file that is sent is written down with its sha256."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache

from mirror.gate.core import Core, Denied, Exchange
from mirror.gate.hosts import HostError, parse_endpoint
from mirror.gate.http1 import render_head
from mirror.gate.limits import Usage
from mirror.gate.packages import asked_package
from mirror.gate.policy import Kind, deny
from mirror.gate.tree import Found, Moved, byte_range, find
from mirror.publish import npm

_CHUNK = 256 * 1024


async def serve(core: Core, exchange: Exchange, usages: tuple[Usage, ...]) -> bool:
    """Serve what a path names; says whether the connection goes on. Raises Denied where nothing is there."""
    tree, target = core.settings.tree, exchange.request.path
    found = find(tree, target, exchange.head.get("accept") or "") if tree else None
    match found:
        case Found(told=True):
            return await _page(core, exchange, found, usages)
        case Found():
            return await _file(core, exchange, found, usages)
        case Moved():
            headers = (("Location", found.location), ("Content-Length", "0"))
            exchange.writer.write(render_head("HTTP/1.1 301 Moved", headers))
            await _drain(core, exchange)
            return exchange.head.keeps
    _missing(core, exchange, target)
    raise Denied(
        deny(Kind.NOT_IN_LOCK, "the mirror does not hold this", "mirror", "adding it to a lock-file")
    )


def _missing(core: Core, exchange: Exchange, target: str) -> None:
    asked = asked_package(target)
    if asked is None:
        return
    ecosystem, name = asked
    kind, near = core.settings.shelf.classify(ecosystem, name)
    core.record_denied(
        "missing", exchange.task, ecosystem=ecosystem, package=name[:214], kind=kind.value, near=near
    )
    if near:
        reason = f"{name} is not in the mirror, but {near} is"
        raise Denied(deny(kind, reason, "mirror", f"{near}, or adding {name} to a lock-file"))


async def _page(core: Core, exchange: Exchange, found: Found, usages: tuple[Usage, ...]) -> bool:
    """Send a page of npm's registry, with this gate as the place of its tarballs: npm takes whole URLs."""
    head, content = exchange.head, found.path.read_bytes()
    with suppress(HostError):  # who names no host gets the place where the mirror was published
        content = npm.moved(content, f"http://{parse_endpoint(head.get('host') or '', 80)}")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    fresh = head.get("if-none-match") != etag
    headers = [("ETag", etag), ("Content-Type", found.content_type), ("Vary", "Accept, Host")]
    headers += [("Content-Length", str(len(content)))] if fresh else []
    headers += [] if head.keeps else [("Connection", "close")]
    exchange.writer.write(
        render_head(f"HTTP/1.1 {'200 OK' if fresh else '304 Not Modified'}", tuple(headers))
    )
    sent = content if fresh and head.method != "HEAD" else b""
    _count(usages, len(sent))
    exchange.writer.write(sent)
    _record(core, exchange, 200 if fresh else 304, len(sent), {})
    await _drain(core, exchange)
    return head.keeps


async def _file(core: Core, exchange: Exchange, found: Found, usages: tuple[Usage, ...]) -> bool:
    head, writer = exchange.head, exchange.writer
    headers = [("ETag", found.etag), ("Content-Type", found.content_type), ("Accept-Ranges", "bytes")]
    first, end, status = 0, found.size, "200 OK"
    try:
        if head.get("if-none-match") == found.etag:
            first, end, status = 0, 0, "304 Not Modified"
        elif head.get("if-range") in (None, found.etag) and (
            part := byte_range(head.get("range"), found.size)
        ):
            (first, end), status = part, "206 Partial Content"
            headers.append(("Content-Range", f"bytes {first}-{end - 1}/{found.size}"))
    except ValueError:
        first, end, status = 0, 0, "416 Range Not Satisfiable"
        headers.append(("Content-Range", f"bytes */{found.size}"))
    if not status.startswith("304"):
        headers.append(("Content-Length", str(end - first)))
    headers += [("Date", formatdate(usegmt=True)), ("Vary", "Accept")]
    if not head.keeps:
        headers.append(("Connection", "close"))
    writer.write(render_head(f"HTTP/1.1 {status}", tuple(headers)))
    if head.method == "HEAD" or first == end:
        _record(core, exchange, int(status[:3]), 0, {})
    else:
        await _Transfer(found, first, end).run(core, exchange, usages)
    await _drain(core, exchange)
    return head.keeps


async def _drain(core: Core, exchange: Exchange) -> None:
    """Wait for a client that is slower than the gate. Raises TimeoutError for one that takes nothing."""
    async with asyncio.timeout(core.settings.idle_seconds):
        await exchange.writer.drain()


class _Transfer:
    """Bytes of a file on their way; however many the client took, they are written down as its package's."""

    def __init__(self, found: Found, first: int, end: int) -> None:
        self._found = found
        self._first, self._end = first, end
        self._sent = 0
        self._hash = hashlib.sha256()

    async def run(self, core: Core, exchange: Exchange, usages: tuple[Usage, ...]) -> None:
        try:
            await self._send(core, exchange, usages)
        finally:
            whole = self._sent == self._found.size
            sha256 = self._hash.hexdigest() if whole else await asyncio.to_thread(_digest, self._found)
            fields = {"sha256": sha256, **core.settings.shelf.describe(sha256)}
            part = {} if whole else {"first": self._first, "size": self._found.size}
            status = 200 if self._end - self._first == self._found.size else 206
            _record(core, exchange, status, self._sent, {**fields, **part})

    async def _send(self, core: Core, exchange: Exchange, usages: tuple[Usage, ...]) -> None:
        with self._found.path.open("rb") as file:
            file.seek(self._first)
            while rest := self._end - self._first - self._sent:
                data = file.read(min(_CHUNK, rest))
                if not data:
                    raise ConnectionError("the file became shorter")
                self._hash.update(data)
                self._sent += len(data)
                exchange.writer.write(data)
                _count(usages, len(data))
                if any(usage.over for usage in usages):
                    _stop(core, exchange)
                await _drain(core, exchange)


@lru_cache(maxsize=1024)
def _digest(found: Found) -> str:
    """Hash a file of which a part was sent; it is not hashed again while its tag is the same."""
    with found.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stop(core: Core, exchange: Exchange) -> None:
    """End an answer that has begun, since its budget is spent. Raises ConnectionError."""
    decision = deny(Kind.BUDGET, "the byte budget is spent", "mirror", "a larger received")
    core.record_decision(exchange.task, exchange.request, decision)
    exchange.writer.transport.abort()
    raise ConnectionError(decision.reason)


def _count(usages: tuple[Usage, ...], received: int) -> None:
    for usage in usages:
        usage.received += received


def _record(core: Core, exchange: Exchange, status: int, size: int, fields: dict[str, object]) -> None:
    path = exchange.request.path.partition("?")[0][:1024]
    core.record(
        "served", exchange.task, method=exchange.head.method, status=status, bytes=size, path=path, **fields
    )
