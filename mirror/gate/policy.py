"""What a sandbox may reach, and the one pure function that decides. Deny wins; empty denies all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256

from mirror.gate.addresses import Address, refusal
from mirror.gate.hosts import Endpoint, Host, HostError, Name
from mirror.gate.limits import NO_LIMITS, Limits
from mirror.gate.requests import Request, Way, request_for

READING = ("GET", "HEAD")


class Verdict(StrEnum):
    """The two ways it can end."""

    ALLOW = "allow"
    DENY = "deny"


class Kind(StrEnum):
    """What a blocked attempt was, for the log."""

    NONE = ""
    HOST = "host"
    PORT = "port"
    DENIED = "denied"
    RAW_ADDRESS = "raw address"
    METADATA = "metadata service"
    PRIVATE = "private address"
    METHOD = "method"
    PATH = "path"
    RATE = "rate"
    BUDGET = "budget"
    MALFORMED = "malformed"
    SERVER_NAME = "server name"
    LOOK_UP = "look-up"
    PACKET = "packet"
    RAW_SOCKET = "raw socket"
    SOCKET = "socket"
    NOT_IN_LOCK = "not in lock"
    NEAR_NAME = "name close to a locked one"
    TOKEN = "token"  # noqa: S105 - the word, not a token
    UPSTREAM = "upstream"
    CLOSED = "gate closed"


@dataclass(frozen=True, slots=True)
class Pattern:
    """`host` exactly, or with `below` every strict sub-domain of it, and nothing else."""

    name: Name
    below: bool = False

    def matches(self, host: Host) -> bool:
        """Say whether a host is meant."""
        return isinstance(host, Name) and (host.is_below(self.name) if self.below else host == self.name)

    def covers(self, other: Pattern) -> bool:
        """Say whether every host that `other` means is meant by this too."""
        if not self.below:
            return self == other
        return other.name.is_below(self.name) or (other.below and other.name == self.name)

    def __str__(self) -> str:
        return f"*.{self.name}" if self.below else str(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """Hosts and ports that may be reached; `address` is dialled instead of looking the name up."""

    rule: str
    pattern: Pattern
    ports: tuple[int, ...]
    address: Address | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Hosts that may not be reached, whatever else is said; no ports means all."""

    rule: str
    pattern: Pattern
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A secret that the gate adds on the way out, from the environment or a file, never in the policy."""

    header: str
    scheme: str
    variable: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path of the gate behind which it speaks to an upstream itself; without `tls` in the clear."""

    rule: str
    name: str
    endpoint: Endpoint
    base: str
    methods: tuple[str, ...] = READING
    paths: tuple[str, ...] = ("/",)
    address: Address | None = None
    credential: Credential | None = None
    tls: bool = True
    limits: Limits = NO_LIMITS

    def reaches(self, path: str) -> bool:
        """Say whether a path, without its query, lies at or below one of the prefixes."""
        return any(path == p or path.startswith(p if p.endswith("/") else f"{p}/") for p in self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole policy of a task. `expect` are requests that must pass and that must fail."""

    name: str
    description: str = ""
    mirror: bool = False
    allows: tuple[Allow, ...] = ()
    denies: tuple[Deny, ...] = ()
    routes: tuple[Route, ...] = ()
    limits: Limits = NO_LIMITS
    must_pass: tuple[str, ...] = field(default=(), compare=False)
    must_fail: tuple[str, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """The sha256 of what the policy means, whichever way it is written."""
        content = {
            k: v for k, v in asdict(self).items() if k not in ("must_pass", "must_fail", "description")
        }
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def granted(self, rule: str) -> Allow | Route | None:
        """Give what a rule of an allowing decision grants; None is the mirror."""
        grants: tuple[Allow | Route, ...] = (*self.allows, *self.routes)
        return next((grant for grant in grants if grant.rule == rule), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, the rule it stands on, why, and what to ask for where the answer is no."""

    verdict: Verdict
    rule: str
    reason: str
    kind: Kind = Kind.NONE
    ask: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the answer is yes."""
        return self.verdict is Verdict.ALLOW


def decide(policy: Policy, request: Request) -> Decision:
    """Decide one request by the policy alone. Pure: the live gate and every command ask this."""
    match request.way:
        case Way.MIRROR:
            return _mirror(policy, request)
        case Way.ROUTE:
            return _route(policy, request)
        case _:
            return _outward(policy, request)


def answer(policy: Policy, method: str, url: str) -> tuple[Request | None, Decision]:
    """Decide what a client would ask the gate to get a URL; what cannot be read is denied."""
    try:
        request = request_for(method, url)
    except HostError as error:
        return None, unreadable(error)
    return request, decide(policy, request)


def unreadable(error: HostError) -> Decision:
    """Make the denial of a target that has no one meaning."""
    kind = Kind.RAW_ADDRESS if error.kind == "raw address" else Kind.MALFORMED
    return deny(kind, str(error), "parser")


def unmet(policy: Policy) -> tuple[str, ...]:
    """Give the lines of `[expect]` that do not hold, the passing ones first."""
    return tuple(
        f"{'must pass' if wanted else 'must fail'}: {line}"
        for lines, wanted in ((policy.must_pass, True), (policy.must_fail, False))
        for line in lines
        if answer(policy, *_expected(line))[1].allowed is not wanted
    )


def _expected(line: str) -> tuple[str, str]:
    method, _, url = line.partition(" ")
    return method, url


def deny(kind: Kind, reason: str, rule: str = "default", ask: str = "") -> Decision:
    """Make a denial."""
    return Decision(verdict=Verdict.DENY, rule=rule, reason=reason, kind=kind, ask=ask)


def past_the_gate(address: Address) -> tuple[Kind, str]:
    """Class an attempt to reach an address without the gate, and name the address for people."""
    found = refusal(address)
    kind = address_kind(found.kind) if found else Kind.RAW_ADDRESS
    return kind, str(found or address)


def address_kind(kind: str) -> Kind:
    """Give the class of an attempt to reach an address that is refused for being `kind`."""
    return Kind.METADATA if kind == "metadata service" else Kind.PRIVATE


def _allow(rule: str, reason: str) -> Decision:
    return Decision(verdict=Verdict.ALLOW, rule=rule, reason=reason)


def _mirror(policy: Policy, request: Request) -> Decision:
    if not policy.mirror:
        return deny(Kind.HOST, "this policy does not open the mirror", ask="mirror = true")
    if request.method not in READING:
        return deny(Kind.METHOD, f"the mirror is read-only: {request.method} is not served", "mirror")
    return _allow("mirror", "the mirror's routes are open")


def _route(policy: Policy, request: Request) -> Decision:
    route = next((route for route in policy.routes if route.name == request.route), None)
    if route is None:
        return deny(
            Kind.HOST, f"there is no route {request.route!r}", ask=f'[[route]]\nname = "{request.route}"'
        )
    if denied := _denied(policy, route.endpoint):
        return denied
    if request.method not in route.methods:
        wanted = json.dumps([*route.methods, request.method])
        reason = f"{request.method} is not allowed on route {route.name}"
        return deny(Kind.METHOD, reason, route.rule, f"methods = {wanted}")
    path = request.path.partition("?")[0]
    if not is_plain(path):
        return deny(Kind.PATH, "a path with dot segments, empty segments or encoded separators", route.rule)
    if not (route.reaches(path) and route.reaches(_decoded(path))):
        return deny(
            Kind.PATH, f"this path is not allowed on route {route.name}", route.rule, f'paths = ["{path}"]'
        )
    return _allow(route.rule, f"route {route.name}")


def is_plain(path: str) -> bool:
    """Say whether a path means the same to everyone: no dot segments, no empty ones, nothing encoded twice.

    Some servers take `..;a=b` for a dot segment, since they cut the parameters of each off (RFC 3986, 3.3).
    """
    lowered = _decoded(path).lower()
    segments = lowered.replace("%2e", ".").replace("%3b", ";").split("/")
    return (
        "//" not in lowered
        and not any(segment.partition(";")[0] in (".", "..") for segment in segments)
        and not any(encoded in lowered for encoded in ("%5c", "%00", "%25"))
    )


def _decoded(path: str) -> str:
    """Give the other reading of a path that has encoded slashes, as npm's of scoped packages have."""
    return path.replace("%2f", "/").replace("%2F", "/")


def _outward(policy: Policy, request: Request) -> Decision:
    endpoint = request.endpoint
    if endpoint is None:
        return deny(Kind.MALFORMED, "no destination")
    if not isinstance(endpoint.host, Name):
        return _raw_address(endpoint.host)
    if denied := _denied(policy, endpoint):
        return denied
    named = [rule for rule in policy.allows if rule.pattern.matches(endpoint.host)]
    for rule in named:
        if endpoint.port in rule.ports:
            return _allow(rule.rule, f"{rule.pattern} on port {endpoint.port}")
    ask = f'[[allow]]\nhost = "{endpoint.host}"\nports = [{endpoint.port}]'
    if named:
        return deny(Kind.PORT, f"port {endpoint.port} of {endpoint.host} is not allowed", named[0].rule, ask)
    return deny(Kind.HOST, f"{endpoint.host} is not in the policy", ask=ask)


def _raw_address(address: Address) -> Decision:
    kind, what = past_the_gate(address)
    ask = "[[allow]] with the host's name, and address = where that is private"
    return deny(kind, f"addresses are never a destination: {what}", "names only", ask)


def _denied(policy: Policy, endpoint: Endpoint) -> Decision | None:
    for rule in policy.denies:
        if rule.pattern.matches(endpoint.host) and (not rule.ports or endpoint.port in rule.ports):
            return deny(Kind.DENIED, f"{rule.pattern} is denied", rule.rule)
    return None
