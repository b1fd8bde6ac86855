"""Reads a policy from TOML, with errors that name file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

from lockfiles.document import Table, parse_toml
from mirror.gate.addresses import Address
from mirror.gate.errors import PolicyError
from mirror.gate.hosts import Endpoint, HostError, Name, check_path, parse_name, parse_url
from mirror.gate.limits import Limits
from mirror.gate.policy import READING, Allow, Credential, Deny, Pattern, Policy, Route

Places = Mapping[str, tuple[str, ...]]
"""URLs that a policy means by a word, such as the indexes of the user's own pip."""

_RATE = re.compile(r"([1-9][0-9]{0,6})/([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
_ROUTE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,40}[a-z0-9])?")
_PORT_LIMIT = 65535


def load_policy(reference: str, places: Places | None = None) -> Policy:
    """Read a policy from a file, or the template of that name. Raises PolicyError."""
    try:
        if re.fullmatch(r"[a-z][a-z-]*", reference):
            text = files("templates").joinpath("policies", f"{reference}.toml").read_text(encoding="utf-8")
        else:
            text = Path(reference).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(template_names())
        raise PolicyError(
            f"cannot be read: {error}", where=reference, hint=f"a file's path, or one of {known}"
        ) from error
    return parse_policy(reference, text, places or {})


def template_names() -> tuple[str, ...]:
    """Give the names of the ready policies."""
    found = (entry.name for entry in files("templates").joinpath("policies").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def parse_policy(name: str, text: str, places: Places) -> Policy:
    """Read a policy. Raises PolicyError naming file, line and key."""
    document = parse_toml(name, text, PolicyError)
    expect = document.table("expect")
    task = document.table("task")
    policy = Policy(
        name=Path(name).stem,
        description=document.string("description", ""),
        mirror=document.boolean("mirror", False),
        allows=tuple(
            allow
            for index, table in enumerate(document.tables("allow"))
            for allow in _allow(f"allow[{index}]", table, places)
        ),
        denies=tuple(_deny(index, table) for index, table in enumerate(document.tables("deny"))),
        routes=tuple(_routes(document, places)),
        limits=_limits(task),
        must_pass=_filled(expect.strings("pass", ()), places),
        must_fail=_filled(expect.strings("fail", ()), places),
    )
    for table in (task, expect, document):
        table.finish()
    return policy


def _allow(rule: str, table: Table, places: Places) -> Iterator[Allow]:
    limits = _limits(table)
    if "hosts_of" in table.value:
        endpoints = sorted(
            {_endpoint(table, "hosts_of", url) for url in _place(table, "hosts_of", places)}, key=str
        )
        table.finish()
        for endpoint in endpoints:
            assert isinstance(endpoint.host, Name)  # noqa: S101 - _endpoint gives names only
            yield Allow(
                rule=f"{rule} {endpoint.host}",
                pattern=Pattern(endpoint.host),
                ports=(endpoint.port,),
                limits=limits,
            )
        return
    pattern = _pattern(table)
    allow = Allow(
        rule=f"{rule} {pattern}",
        pattern=pattern,
        ports=_ports(table, needed=True),
        address=_address(table, pattern),
        limits=limits,
    )
    table.finish()
    yield allow


def _deny(index: int, table: Table) -> Deny:
    pattern = _pattern(table)
    deny = Deny(rule=f"deny[{index}] {pattern}", pattern=pattern, ports=_ports(table, needed=False))
    table.finish()
    return deny


def _routes(document: Table, places: Places) -> Iterator[Route]:
    seen: set[str] = set()
    for index, table in enumerate(document.tables("route")):
        for route in _route(f"route[{index}]", table, places):
            if route.name in seen:
                raise table.fault("name", f"there are two routes {route.name!r}")
            seen.add(route.name)
            yield route


def _route(rule: str, table: Table, places: Places) -> Iterator[Route]:
    name = table.string("name")
    if not _ROUTE_NAME.fullmatch(name):
        raise table.fault("name", "small letters, digits and inner hyphens")
    key = "upstream_of" if "upstream_of" in table.value else "upstream"
    urls = _place(table, key, places) if key == "upstream_of" else (table.string(key),)
    methods, paths, limits = _methods(table), _paths(table), _limits(table)
    credential, address = _credential(table), _address(table, None)
    table.finish()
    for number, url in enumerate(urls, 1):
        own = name if number == 1 else f"{name}-{number}"
        yield Route(
            rule=f"{rule} {own}",
            name=own,
            endpoint=_endpoint(table, key, url),
            base=parse_url(url).path.rstrip("/"),
            methods=methods,
            paths=paths,
            address=address,
            credential=credential,
            tls=_tls(table, key, url, credential),
            limits=limits,
        )


def _tls(table: Table, key: str, url: str, credential: Credential | None) -> bool:
    """Say whether a route speaks TLS: always, unless its URL says http://, which no secret may go by."""
    clear = url.lower().startswith("http:")
    if clear and credential:
        raise table.fault(key, "a credential is never sent in the clear", "an https:// upstream")
    return not clear


def _place(table: Table, key: str, places: Places) -> tuple[str, ...]:
    word = table.string(key)
    if word not in places:
        known = ", ".join(sorted(places)) or "none here"
        raise table.fault(key, f"{word!r} stands for no upstreams", f"known: {known}")
    return places[word]


def _endpoint(table: Table, key: str, url: str) -> Endpoint:
    """Give the endpoint of an upstream's URL, which may not be an address."""
    try:
        target = parse_url(url)
    except HostError as error:
        raise table.fault(key, f"not the URL of an upstream: {error}") from error
    if not isinstance(target.endpoint.host, Name):
        raise table.fault(key, "an address is not a destination", "name the host, and give address =")
    return target.endpoint


def _pattern(table: Table) -> Pattern:
    text = table.string("host")
    below = text.startswith("*.")
    try:
        name = parse_name(text.removeprefix("*."))
    except HostError as error:
        raise table.fault("host", f"{error}", "write host or *.host") from error
    if below and "." not in name.text:
        raise table.fault("host", "a wildcard below one label is most of the internet")
    return Pattern(name, below)


def _ports(table: Table, *, needed: bool) -> tuple[int, ...]:
    table.seen.add("ports")
    ports = table.value.get("ports", None if needed else [])
    if ports is None:
        raise table.fault("", "'ports' is missing", "ports = [443]")
    if not isinstance(ports, list) or (needed and not ports):
        raise table.fault("ports", "must be an array of ports")
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= _PORT_LIMIT:
            raise table.fault("ports", "a port is an integer from 1 to 65535")
    return tuple(sorted(set(ports)))


def _address(table: Table, pattern: Pattern | None) -> Address | None:
    address = table.parsed("address", ip_address)
    if address is not None and pattern is not None and pattern.below:
        raise table.fault("address", "an address belongs to one host, not to *.host")
    return address


def _limits(table: Table) -> Limits:
    rate = table.parsed("rate", _rate)
    burst = table.integer("burst", max(1, round(rate or 1)), minimum=1)
    sent = table.integer("sent", -1) if "sent" in table.value else None
    received = table.integer("received", -1) if "received" in table.value else None
    return Limits(rate=rate, burst=burst, sent=sent, received=received)


def _rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError("a rate is written 10/s, 600/m or 100/h")
    return int(match[1]) / _SECONDS[match[2]]


def _methods(table: Table) -> tuple[str, ...]:
    methods = table.strings("methods", READING)
    for method in methods:
        if not _METHOD.fullmatch(method) or method in ("CONNECT", "TRACE"):
            raise table.fault("methods", f"{method!r} is not a method of a route")
    return tuple(sorted(set(methods)))


def _paths(table: Table) -> tuple[str, ...]:
    paths = table.strings("paths", ("/",))
    for path in paths:
        try:
            check_path(path)
        except HostError as error:
            raise table.fault("paths", f"{path!r}: {error}") from error
    return tuple(sorted(set(paths)))


def _credential(table: Table) -> Credential | None:
    if "credential" not in table.value:
        return None
    inner = table.table("credential")
    credential = Credential(
        header=inner.string("header", "Authorization"),
        scheme=inner.string("scheme", ""),
        variable=inner.string("env", None),
        file=inner.string("file", None),
    )
    inner.finish()
    if (credential.variable is None) == (credential.file is None):
        raise table.fault("credential", "names either env or file")
    if not _HEADER.fullmatch(credential.header):
        raise inner.fault("header", "not the name of a header")
    return credential


def _filled(lines: Iterable[str], places: Places) -> tuple[str, ...]:
    """Write the endpoints of upstreams where a line says {WORD}."""
    filled: list[str] = []
    for line in lines:
        word = re.search(r"\{([a-z]+)\}", line)
        urls = places.get(word[1], ()) if word else ()
        filled += [line.replace(word[0], str(parse_url(u).endpoint)) for u in urls] if word else [line]
    return tuple(filled)
