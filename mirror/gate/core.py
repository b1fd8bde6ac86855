"""What all connections of a gate share: policy, log, limits; and how a denial is told and written down."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirror.gate.dial import Resolver, system_resolver
from mirror.gate.errors import LogError
from mirror.gate.hosts import Endpoint
from mirror.gate.http1 import Head, Headers, render_head
from mirror.gate.limits import NO_LIMITS, Limits, Meter, Usage
from mirror.gate.log import Log
from mirror.gate.packages import Shelf, Stock
from mirror.gate.policy import Decision, Kind, Policy, deny
from mirror.gate.relay import Tunnel
from mirror.gate.repeats import WINDOW, Repeats
from mirror.gate.requests import Request

_STATUS = {
    Kind.MALFORMED: 400,
    Kind.TOKEN: 407,
    Kind.RATE: 429,
    Kind.NOT_IN_LOCK: 404,
    Kind.NEAR_NAME: 404,
    Kind.UPSTREAM: 502,
    Kind.CLOSED: 503,
}
_REASON_LIMIT = 160
_TARGET_LIMIT = 200
_USES = 32  # of a task in a window, with their caveats: a sandbox can make as many tokens as it likes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a task, and the identifier and caveats of the token that says so, where there is one."""

    task: str
    token: str = ""
    caveats: tuple[str, ...] = ()


Identify = Callable[[Head, str], Identity]
"""Gives who makes a request for an operation. Raises TokenError."""


class Denied(Exception):  # noqa: N818 - an outcome, not a fault
    """A request ends here; whoever catches it records it and tells the client."""

    def __init__(self, decision: Decision, status: int | None = None) -> None:
        super().__init__(decision.reason)
        self.decision = decision
        self.status = status or _STATUS.get(decision.kind, 403)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a gate works. `tree` is the static tree it serves; `secrets` are header values by route.

    Times are in seconds: for a whole head, and without a byte in a tunnel.
    """

    policy: Policy
    tree: Path | None = None
    shelf: Stock = field(default_factory=lambda: Shelf({}, {}))
    secrets: Mapping[str, str] = field(default_factory=dict)
    resolver: Resolver = system_resolver
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    head_seconds: float = 15
    idle_seconds: float = 600
    connections: int = 4096


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and the connection it came on."""

    task: str
    head: Head
    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Core:
    """The shared state. After a failure of the log nothing goes on, and all tunnels end."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.tunnels: set[Tunnel] = set()
        self.failure: LogError | None = None
        self._digest = settings.policy.digest  # once: each record carries it
        self._log = log
        self._meters: dict[str, Meter] = {}
        self._repeats: dict[str, Repeats] = {}
        self._uses: dict[str, Repeats] = {}
        self._window: asyncio.TimerHandle | None = None

    def record(self, event: str, task: str, **fields: Any) -> None:
        """Write a record, or close the gate. Raises Denied where it cannot be written."""
        try:
            if self.failure:
                raise self.failure
            self._log.append({"event": event, "task": task, "policy": self._digest, **fields})
        except LogError as error:
            self.close(error)
            reason = "the gate is closed, for it cannot keep its log"
            raise Denied(deny(Kind.CLOSED, reason, "log")) from error

    def record_denied(self, event: str, task: str, **fields: Any) -> None:
        """Write what was denied; what repeats itself becomes a sum. Raises Denied like `record`."""
        self._record_bounded(self._repeats.setdefault(task, Repeats()), event, task, fields)

    def record_use(self, who: Identity) -> None:
        """Write that a token is used; of many of a task the rest is a sum. Raises Denied like `record`."""
        repeats = self._uses.setdefault(who.task, Repeats(whole=_USES, sums=0))
        fields = {"action": "use", "token": who.token, "caveats": list(who.caveats)}
        self._record_bounded(repeats, "token", who.task, fields)

    def _record_bounded(self, repeats: Repeats, event: str, task: str, fields: Mapping[str, Any]) -> None:
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(WINDOW, self.settle)
        if repeats.admit({"event": event, **fields}):
            self.record(event, task, **fields)

    def settle(self) -> None:
        """Write the sums of what repeated itself, and begin a new window."""
        if self._window is not None:
            self._window.cancel()
            self._window = None
        counted = (*self._repeats.items(), *self._uses.items())
        self._repeats, self._uses = {}, {}
        with suppress(Denied):  # the log failed: the gate is closed by that
            for task, found in counted:
                for fields in found.drain():
                    self.record(task=task, **fields)

    @property
    def note(self) -> str:
        """The last signed checkpoint of the log."""
        return self._log.note

    @property
    def size(self) -> int:
        """The number of records of the log."""
        return self._log.size

    def close(self, failure: LogError) -> None:
        """Let nothing through any more."""
        self.failure = self.failure or failure
        for tunnel in list(self.tunnels):
            tunnel.stop("gate closed")

    def usages(self, task: str, rule: str, limits: Limits = NO_LIMITS) -> tuple[Usage, ...]:
        """Give what a request of a task by a rule counts against."""
        meter = self._meters.setdefault(task, Meter(Usage(self.settings.policy.limits)))
        return meter.usages(rule, limits)

    def admit(self, usages: tuple[Usage, ...], rule: str) -> None:
        """Take one request from the rates and see that budgets are left. Raises Denied."""
        now = asyncio.get_running_loop().time()
        if any(usage.spent for usage in usages):
            raise Denied(deny(Kind.BUDGET, "the byte budget is spent", rule, "a larger sent or received"))
        if not all(usage.admit(now) for usage in usages):
            raise Denied(
                deny(Kind.RATE, "more requests than the rate allows", rule, "a larger rate or burst")
            )

    def record_decision(
        self, task: str, request: Request, decision: Decision, stage: str = "outcome"
    ) -> None:
        """Write down what was asked for and what was decided.

        `stage` is `policy` for what the policy alone decides, `outcome` for what came of it later.
        """
        record = self.record if decision.allowed else self.record_denied
        record(
            "decision",
            task,
            verdict=decision.verdict.value,
            rule=decision.rule,
            kind=decision.kind.value,
            reason=decision.reason,
            **({"ask": decision.ask} if decision.ask else {}),
            stage=stage,
            **describe(request),
        )

    def denial(self, denied: Denied, head: Head | None) -> bytes:
        """Write the answer to a denied request: it says which policy, which rule, and what to ask for."""
        body = f"{json.dumps(self._explain(denied.decision), indent=1)}\n"
        name = self.settings.policy.name
        phrase = f"lockstock: {denied.decision.reason} (policy {name}, rule {denied.decision.rule})"
        status: int = denied.status
        asked: Headers = ()
        if denied.decision.kind is Kind.TOKEN:
            status, asked = _login(head)
        # git shows what it is told only where that is plain text.
        git = head is not None and (head.get("user-agent") or "").startswith("git/")
        headers = (
            ("Content-Type", "text/plain" if git else "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *asked,
        )
        answer = render_head(f"HTTP/1.1 {status} {printable(phrase)[:_REASON_LIMIT]}", headers)
        return answer if head is not None and head.method == "HEAD" else answer + body.encode()

    def _explain(self, decision: Decision) -> dict[str, str]:
        return {
            "denied": decision.reason,
            "kind": decision.kind.value,
            "policy": self.settings.policy.name,
            "policy_digest": self._digest,
            "rule": decision.rule,
            "ask_for": decision.ask or "nothing: this is never allowed",
        }


def _login(head: Head | None) -> tuple[int, Headers]:
    """Give the status and the header that make a client send what it has: to a proxy, or to a site."""
    proxied = head is not None and not head.target.startswith("/")
    name = "Proxy-Authenticate" if proxied else "WWW-Authenticate"
    return 407 if proxied else 401, ((name, 'Basic realm="lockstock", charset="UTF-8"'),)


def describe(request: Request) -> dict[str, object]:
    """Give a request as fields of a record; a query may hold secrets, so its length alone is told."""
    path, _, query = request.path.partition("?")
    fields: dict[str, object] = {"way": request.way.value, "method": request.method}
    if isinstance(request.endpoint, Endpoint):
        fields |= {"host": str(request.endpoint.host), "port": request.endpoint.port}
    if path:
        fields |= {"path": path[:1024]}
    if query:
        fields |= {"query_bytes": len(query)}
    if request.route:
        fields |= {"route": request.route[:64]}
    return fields


def shown_target(target: str) -> str:
    """Give a target that could not be read as it may stand in the log: short, and without credentials."""
    return printable(target.rpartition("@")[2].partition("?")[0])[:_TARGET_LIMIT]


def printable(text: str) -> str:
    """Give a text that a sandbox wrote as it may stand in one line."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)
