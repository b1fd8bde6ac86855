"""The one parser of what a client wrote: a canonical ASCII host name, or an address; else refused.

Nothing else in the gate looks at the text of a host, so there is one opinion of what it means.
Stricter than RFC 3986 and the URL standard: what has two readings has none here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from mirror.gate.addresses import Address

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# What may stand in a request-target after the authority (RFC 3986); a fragment is never sent.
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME_LIMIT = 253
_PORT_LIMIT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}


class HostError(ValueError):
    """The text names no host in a way that has one meaning only.

    `kind` is `raw address` for an address in a form that hides it, else `malformed`.
    """

    def __init__(self, reason: str, kind: str = "malformed") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A host name: lower-case ASCII, without the root's dot."""

    text: str

    def __str__(self) -> str:
        return self.text

    def is_below(self, parent: Name) -> bool:
        """Say whether this is a strict sub-domain of `parent`."""
        return self.text.endswith(f".{parent.text}")


Host = Name | IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a TCP port."""

    host: Host
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """An absolute URL in its parts; `path` has the query too."""

    scheme: str
    endpoint: Endpoint
    path: str


def parse_host(text: str) -> Host:
    """Read a host as an authority writes it, IPv6 in brackets. Raises HostError."""
    if not text.isascii() or not text.isprintable():
        raise HostError("a host is printable ASCII; other names are written in their xn-- form")
    if text.startswith("["):
        return _ipv6(text)
    lowered = text.lower().removesuffix(".")
    labels = lowered.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        return _ipv4(lowered)
    if len(lowered) > _NAME_LIMIT:
        raise HostError(f"a host name has at most {_NAME_LIMIT} characters")
    for label in labels:
        _check_label(label)
    return Name(lowered)


def parse_name(text: str) -> Name:
    """Read a host name that is no address. Raises HostError."""
    host = parse_host(text)
    if not isinstance(host, Name):
        raise HostError("an address is not a host name", "raw address")
    return host


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """Read `host:port`; without a default the port must be there. Raises HostError."""
    if "@" in text:
        raise HostError("credentials before a host are not taken")
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?", text)
    if not match:
        raise HostError("not HOST:PORT; an IPv6 address needs brackets")
    host, port = match[1], match[2]
    if port is None:
        if default_port is None:
            raise HostError("the port is missing")
        return Endpoint(parse_host(host), default_port)
    if not port.isascii() or not _PORT.fullmatch(port) or int(port) > _PORT_LIMIT:
        raise HostError("not a port")
    return Endpoint(parse_host(host), int(port))


def parse_url(text: str) -> Target:
    """Read an absolute http or https URL. Raises HostError."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", text, re.DOTALL)
    if not match:
        raise HostError("not an absolute URL")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise HostError("only http and https go through the gate")
    endpoint = parse_endpoint(match[2], DEFAULT_PORTS[scheme])
    rest = match[3]
    return Target(scheme, endpoint, check_path(f"/{rest}" if rest[:1] in ("", "?") else rest))


def check_path(text: str) -> str:
    """Give a path and query back if every character may stand in one. Raises HostError."""
    if not text.isascii() or not _PATH.fullmatch(text) or _ESCAPE.search(text):
        raise HostError("not a path")
    return text


def canonical(address: Address) -> Address:
    """Give the address itself, without the zone that IPv6 may carry."""
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _ipv4(text: str) -> IPv4Address:
    """Read the dotted form of four decimal numbers and no other."""
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise HostError("an IPv4 address is written as four decimal numbers", "raw address") from error


def _ipv6(text: str) -> IPv6Address:
    if not text.endswith("]"):
        raise HostError("an IPv6 address ends with ]")
    if "%" in text:
        raise HostError("an address with a zone is of one machine only", "raw address")
    try:
        return IPv6Address(text[1:-1])
    except AddressValueError as error:
        raise HostError("not an IPv6 address") from error


def _check_label(label: str) -> None:
    if not _LABEL.fullmatch(label):
        raise HostError("a label of a host name has 1 to 63 letters, digits and inner hyphens")
    if label[2:4] == "--":
        _check_a_label(label)


def _check_a_label(label: str) -> None:
    """Refuse what claims to be an internationalised label and is not the one way to write it."""
    if not label.startswith("xn--"):
        raise HostError("labels with -- in the third place are reserved")
    try:
        decoded = label[4:].encode().decode("punycode")
        again = decoded.encode("punycode").decode()
    except (UnicodeError, ValueError, OverflowError) as error:
        raise HostError("not an internationalised label") from error
    stable = unicodedata.normalize("NFKC", decoded.lower()) == decoded
    if decoded.isascii() or not decoded.isprintable() or not stable or again != label[4:]:
        raise HostError("an internationalised label that has another, canonical form")
