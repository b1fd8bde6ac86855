"""Names of images in registries: HOST/NAME, with a tag or a digest."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from imagegen.errors import BadReferenceError

_REFERENCE = re.compile(
    r"(?P<registry>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/"
    r"(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The name of an image in a registry: host and port, repository, a tag and a digest if there is one."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read HOST/NAME or HOST/NAME:TAG. Raises BadReferenceError."""
        found = cls.parse_pinned(text)
        if found.digest:
            raise BadReferenceError("a digest cannot be chosen", where=text)
        return found

    @classmethod
    def parse_pinned(cls, text: str) -> Reference:
        """Read HOST/NAME with a tag, a digest, both or none. Raises BadReferenceError."""
        match = _REFERENCE.fullmatch(text)
        if not match or not _is_host(match["registry"]):
            raise BadReferenceError("it is no name of an image in a registry", where=text)
        return cls(**match.groupdict())

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this very host, where it may do without TLS."""
        host = self.registry.rpartition(":")[0] if self.registry[-1] != "]" else self.registry
        host = (host or self.registry).strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"


def _is_host(text: str) -> bool:
    """Tell a registry from the first part of a name that has none, as docker does."""
    return "." in text or ":" in text or text == "localhost"
