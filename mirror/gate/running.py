"""Puts a gate together from the mirror's folder and runs it until it is told to end."""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.config import Config
from mirror.console import say
from mirror.gate.core import Denied, Identify, Identity, Settings
from mirror.gate.errors import GateError, LogError, PolicyError, TokenError
from mirror.gate.http1 import Head
from mirror.gate.keys import GateHome
from mirror.gate.log import Log
from mirror.gate.packages import Current
from mirror.gate.policy import Policy, unmet
from mirror.gate.server import Gate
from mirror.gate.tokenlog import TOKENS
from mirror.gate.tokens import Context, parse, pick, verify
from mirror.layout import Layout

_POST_SECONDS = 60
_WATCH = 0.2
_FILES = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a gate listens: a unix socket for one task, or TCP for whoever has a token.

    `watch` is the socket on which the task's network tells what was sent past the gate, `filter` the one
    on which its first program hands over what asks for sockets.
    """

    task: str = ""
    socket: Path | None = None
    watch: Path | None = None
    filter: Path | None = None
    host: str = ""
    port: int = 0


def home_of(config: Config) -> GateHome:
    """Give the folder of a mirror's gate."""
    return GateHome(config.root / "gate")


@asynccontextmanager
async def open_gate(
    config: Config, policy: Policy, door: Door, post: str | None = None
) -> AsyncIterator[Gate]:
    """Run a gate for the block; its log is sealed after it. Raises PolicyError, LogError and GateError."""
    if broken := unmet(policy):
        raise PolicyError(f"[expect] does not hold: {broken[0]}", where=policy.name)
    if door.task == TOKENS:
        raise GateError("a task may not be called so: it is the name of the log of tokens", where=door.task)
    home, layout = home_of(config), Layout(config.root)
    stock = Current(layout)
    settings = Settings(
        policy=policy,
        tree=layout.tree / "current",
        shelf=stock,
        secrets=route_secrets(policy, os.environ),
    )
    name = door.task or "gate"
    signer = home.signer()
    with _poster(post) as on_checkpoint:
        log = Log(home.log(name), signer.named(f"{signer.name}/{name}"), on_checkpoint=on_checkpoint)
        try:
            identify = None if door.socket else asker(home, policy, stock.lock)
            gate = _start(settings, log, door, identify)
            try:
                await _listen(gate, door)
                yield gate
            finally:
                await gate.close()
        finally:
            log.close()


async def serve(
    config: Config, policy: Policy, door: Door, post: str | None, ready: Callable[[str], object]
) -> str:
    """Run a gate until SIGTERM or SIGINT, and give the note to keep elsewhere. Raises LogError."""
    _raise_file_limit()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_gate(config, policy, door, post) as gate:
        ready(str(door.socket) if door.socket else f"http://{door.host}:{gate.port}")
        while not stop.is_set() and not gate.core.failure:
            try:
                await asyncio.wait_for(stop.wait(), _WATCH)
            except TimeoutError:
                continue
        failure = gate.core.failure
    if failure:
        raise failure
    return gate.note


def _raise_file_limit() -> None:
    """Let this process hold two ends of as many tunnels as the system grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def route_secrets(policy: Policy, environment: Mapping[str, str]) -> dict[str, str]:
    """Read the header values of all routes, once and before anything is served. Raises PolicyError."""
    found = {}
    for route in policy.routes:
        credential = route.credential
        if credential is None:
            continue
        try:
            if credential.variable is not None:
                value = environment[credential.variable]
            else:
                value = Path(str(credential.file)).read_text(encoding="utf-8").strip()
        except (KeyError, OSError, UnicodeDecodeError) as error:
            source = credential.variable or credential.file
            raise PolicyError(
                f"the credential of {route.rule} is not in {source}", where=policy.name
            ) from error
        if not value or not value.isascii() or not value.isprintable():
            raise PolicyError(f"the credential of {route.rule} is empty or cannot be sent", where=policy.name)
        found[route.name] = f"{credential.scheme} {value}".strip()
    return found


def asker(home: GateHome, policy: Policy, lock: Callable[[], str]) -> Identify:
    """Make the function that asks each request for its token.

    Keys and revocations are read each time, so that both hold at once.
    """
    digest = policy.digest

    def identify(head: Head, operation: str) -> Identity:
        header = head.get("proxy-authorization") or head.get("authorization")
        text = pick(header) if header else None
        if not text:
            raise TokenError("no token came with the request")
        now = time.time()
        keys = {key.id: key.secret for key in home.token_keys(now)}
        context = Context(now=now, operation=operation, lock=lock(), policy=digest, revoked=home.revoked())
        token = parse(text)
        return Identity(verify(token, keys, context), token.identifier, token.caveats)

    return identify


def _start(settings: Settings, log: Log, door: Door, identify: Identify | None) -> Gate:
    try:
        return Gate(settings, log, task=door.task, identify=identify)
    except Denied as error:
        raise LogError(error.decision.reason, where=str(log.path)) from error


async def _listen(gate: Gate, door: Door) -> None:
    if door.socket:
        try:
            door.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise GateError(f"cannot listen: {error.strerror}", where=str(door.socket)) from error
        await gate.listen_unix(door.socket)
        if door.watch:
            await gate.watch.listen(door.watch)
        if door.filter:
            gate.filter.listen(door.filter)
    else:
        await gate.listen_tcp(door.host, door.port)


class _poster:  # noqa: N801 - a context manager that reads as a function
    """Hands each checkpoint to a command on its stdin, one at a time, without holding the gate up."""

    def __init__(self, command: str | None) -> None:
        self._words = shlex.split(command) if command else []
        self._pool = ThreadPoolExecutor(1) if command else None

    def __enter__(self) -> Callable[[str], object]:
        return self._post if self._pool else lambda note: None

    def __exit__(self, *exception: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def _post(self, note: str) -> None:
        if self._pool:
            self._pool.submit(self._run, note)

    def _run(self, note: str) -> None:
        try:
            subprocess.run(self._words, input=note, text=True, check=True, timeout=_POST_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            say(f"a checkpoint could not be posted: {type(error).__name__}; it is in the log's folder")
