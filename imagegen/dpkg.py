"""The packages that dpkg's status file lists as installed (deb822). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# None of these may be continued on another line.
_FIELD = re.compile(r"^(Package|Status|Version|Architecture):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DebianPackage:
    """An installed package; `architecture` is as dpkg names it, or `all`."""

    name: str
    version: str
    architecture: str


def installed(status: str) -> Iterator[DebianPackage]:
    """Read the text of /var/lib/dpkg/status; what is not fully installed is passed over."""
    for stanza in status.split("\n\n"):
        fields = dict(reversed(_FIELD.findall(stanza)))
        if fields.get("Package") and fields.get("Status", "").endswith(" installed"):
            yield DebianPackage(
                name=fields["Package"],
                version=fields.get("Version", ""),
                architecture=fields.get("Architecture", ""),
            )
