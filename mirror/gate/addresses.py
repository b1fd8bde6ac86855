"""Addresses that no name may lead to: own list, for `ipaddress.is_global` lets some of them through.

From IANA's special-purpose registries (RFC 6890 and its updates) and what clouds serve secrets on.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

# Clouds serve credentials here; two of these are public addresses.
_METADATA = (
    "169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 100.100.100.200/32 168.63.129.16/32 "
    "192.0.0.192/32 fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128"
)
_RANGES = (
    ("metadata service", _METADATA),
    ("loopback", "127.0.0.0/8 ::1/128"),
    ("unspecified", "0.0.0.0/8 ::/128"),
    ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10"),
    ("link-local", "169.254.0.0/16 fe80::/10"),
    ("multicast", "224.0.0.0/4 ff00::/8"),
    ("NAT64", "64:ff9b::/96 64:ff9b:1::/48"),
    # Mapped, compatible and translated addresses, Teredo and 6to4 carry an IPv4 address inside.
    ("IPv4 in disguise", "::ffff:0:0/96 ::/96 ::ffff:0:0:0/96 2001::/32 2002::/16"),
    ("documentation", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20"),
    (
        "reserved",
        "192.0.0.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.175.48.0/24 198.18.0.0/15 "
        "240.0.0.0/4 2001::/23 2620:4f:8000::/48 100::/64 5f00::/16",
    ),
)
_TABLE: tuple[tuple[str, IPv4Network | IPv6Network], ...] = tuple(
    (kind, ip_network(text)) for kind, texts in _RANGES for text in texts.split()
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# The interface identifiers of ISATAP (RFC 5214), which carries an IPv4 address below any prefix.
_ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address may not be dialled; `kind` is a word for the log."""

    kind: str
    address: Address

    def __str__(self) -> str:
        return f"{self.address} ({self.kind})"


def refusal(address: Address) -> Refusal | None:
    """Say why an address may not be dialled, or None for one on the public internet."""
    for kind, network in _TABLE:
        if address.version == network.version and address in network:
            return Refusal(kind, address)
    if isinstance(address, IPv6Address):
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return Refusal("IPv4 in disguise", address)
        if address not in _GLOBAL_UNICAST or address.scope_id:
            return Refusal("reserved", address)
    return None
