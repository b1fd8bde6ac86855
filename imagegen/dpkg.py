"""The packages that dpkg's status file lists as installed (deb822). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DebianPackage:
    """An installed package; `architecture` is as dpkg names it, or `all`."""

    name: str
    version: str
    architecture: str


def installed(status: str) -> Iterator[DebianPackage]:
    """Read the text of /var/lib/dpkg/status; what is not fully installed is passed over."""
    for stanza in status.split("\n\n"):
        fields = HeaderParser().parsestr(stanza)
        if fields["Package"] and str(fields["Status"]).endswith(" installed"):
            yield DebianPackage(
                name=str(fields["Package"]),
                version=str(fields["Version"]),
                architecture=str(fields["Architecture"]),
            )
