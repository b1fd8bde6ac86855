"""Decides recorded requests again, by another policy, and proposes the smallest that fits. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mirror.gate.hosts import HostError, Name, parse_endpoint
from mirror.gate.limits import NO_LIMITS, Limits
from mirror.gate.policy import Allow, Credential, Pattern, Policy, Route, decide
from mirror.gate.requests import Request, Way

Record = Mapping[str, Any]
_EXACT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A recorded request that a policy decides in another way than it was decided."""

    target: str
    was: str
    now: str
    rule: str
    reason: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How often a rule let something through."""

    rule: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tightened:
    """A policy that allows what history needed and nothing that the one before did not."""

    policy: Policy
    uses: tuple[Use, ...]

    @property
    def unused(self) -> tuple[str, ...]:
        """The rules that nothing went by."""
        return tuple(use.rule for use in self.uses if not use.times)


def request_of(record: Record) -> Request | None:
    """Give the request that a decision by the policy was about, or None for another record."""
    if record.get("event") != "decision" or record.get("stage") != "policy":
        return None
    endpoint = None
    if "host" in record:
        host = str(record["host"])
        try:
            endpoint = parse_endpoint(
                f"[{host}]:{record['port']}" if ":" in host else f"{host}:{record['port']}"
            )
        except HostError:
            return None
    return Request(
        way=Way(record["way"]),
        method=str(record["method"]),
        endpoint=endpoint,
        path=str(record.get("path", "")),
        route=str(record.get("route", "")),
    )


def decide_again(records: Iterable[Record], policy: Policy) -> tuple[Difference, ...]:
    """Decide each recorded request by `policy`; what is denied by rates and budgets is not looked at."""
    counts: Counter[tuple[str, ...]] = Counter()
    for record in records:
        request = request_of(record)
        if request is None:
            continue
        decision = decide(policy, request)
        if decision.verdict.value != record["verdict"]:
            key = (
                _target(request),
                record["verdict"],
                decision.verdict.value,
                decision.rule,
                decision.reason,
            )
            counts[key] += record.get("times", 1)
    return tuple(
        Difference(target=key[0], was=key[1], now=key[2], rule=key[3], reason=key[4], times=times)
        for key, times in sorted(counts.items())
    )


def tighten(records: Iterable[Record], policy: Policy) -> Tightened:
    """Propose a policy that is a subset of `policy` and denies nothing of what it allowed in `records`."""
    history = _allowed(records, policy)
    proposed = Policy(
        name=f"{policy.name}-tightened",
        description=f"what was used of {policy.name}",
        mirror="mirror" in history,
        allows=tuple(one for allow in policy.allows for one in _narrowed(allow, history.get(allow.rule, ()))),
        denies=policy.denies,
        routes=tuple(
            _with_methods(route, history[route.rule]) for route in policy.routes if route.rule in history
        ),
        limits=policy.limits,
    )
    rules = [
        *(["mirror"] if policy.mirror else []),
        *(allow.rule for allow in policy.allows),
        *(route.rule for route in policy.routes),
    ]
    uses = tuple(Use(rule=rule, times=len(history.get(rule, ()))) for rule in rules)
    return Tightened(policy=proposed, uses=uses)


def _allowed(records: Iterable[Record], policy: Policy) -> dict[str, list[Request]]:
    """Give the recorded requests that the policy allows, by rule."""
    found: dict[str, list[Request]] = {}
    for record in records:
        request = request_of(record)
        if request and (decision := decide(policy, request)).allowed:
            found.setdefault(decision.rule, []).append(request)
    return found


def _narrowed(allow: Allow, requests: Iterable[Request]) -> Iterable[Allow]:
    """Give one rule for each host that was reached; hosts that share a budget go on sharing it."""
    hosts: dict[Name, set[int]] = {}
    for request in requests:
        if request.endpoint and isinstance(request.endpoint.host, Name):
            hosts.setdefault(request.endpoint.host, set()).add(request.endpoint.port)
    if len(hosts) > 1 and allow.limits != NO_LIMITS:
        ports = tuple(sorted({port for found in hosts.values() for port in found}))
        yield replace(allow, ports=ports)
        return
    for host, found in sorted(hosts.items()):
        yield replace(allow, rule=f"{allow.rule} {host}", pattern=Pattern(host), ports=tuple(sorted(found)))


def _with_methods(route: Route, requests: Iterable[Request]) -> Route:
    return replace(route, methods=tuple(sorted({request.method for request in requests})))


def to_toml(policy: Policy) -> str:
    """Write a policy as TOML that reads as the same policy."""
    lines = [f"description = {json.dumps(policy.description)}", f"mirror = {json.dumps(policy.mirror)}"]
    for allow in policy.allows:
        lines += ["", "[[allow]]", f'host = "{allow.pattern}"', f"ports = {list(allow.ports)}"]
        lines += _address_lines(allow) + _limit_lines(allow.limits)
    for deny in policy.denies:
        lines += ["", "[[deny]]", f'host = "{deny.pattern}"']
        lines += [f"ports = {list(deny.ports)}"] if deny.ports else []
    for route in policy.routes:
        lines += [
            "",
            "[[route]]",
            f'name = "{route.name}"',
            f'upstream = "{"https" if route.tls else "http"}://{route.endpoint}{route.base}"',
        ]
        lines += [f"methods = {json.dumps(list(route.methods))}", f"paths = {json.dumps(list(route.paths))}"]
        lines += _address_lines(route) + _limit_lines(route.limits) + _credential_lines(route.credential)
    if limits := _limit_lines(policy.limits):
        lines += ["", "[task]", *limits]
    return "\n".join(lines) + "\n"


def _address_lines(grant: Allow | Route) -> list[str]:
    return [f'address = "{grant.address}"'] if grant.address is not None else []


def _limit_lines(limits: Limits) -> list[str]:
    lines = []
    if limits.rate is not None:
        lines += [f'rate = "{_rate(limits.rate)}"', f"burst = {limits.burst}"]
    lines += [f"sent = {limits.sent}"] if limits.sent is not None else []
    return lines + ([f"received = {limits.received}"] if limits.received is not None else [])


def _rate(per_second: float) -> str:
    """Write a rate in the shortest unit in which it is a whole number, as it was read in one."""
    for unit, seconds in (("s", 1), ("m", 60)):
        if abs(per_second * seconds - round(per_second * seconds)) < _EXACT:
            return f"{round(per_second * seconds)}/{unit}"
    return f"{round(per_second * 3600)}/h"


def _credential_lines(credential: Credential | None) -> list[str]:
    if credential is None:
        return []
    source = (
        f"env = {json.dumps(credential.variable)}"
        if credential.variable
        else f"file = {json.dumps(credential.file)}"
    )
    header, scheme = json.dumps(credential.header), json.dumps(credential.scheme)
    return [f"credential = {{ {source}, header = {header}, scheme = {scheme} }}"]


def _target(request: Request) -> str:
    if request.endpoint:
        return f"{request.method} {request.endpoint}{request.path}"
    route = f"/route/{request.route}" if request.route else ""
    return f"{request.method} {route}{request.path}"
