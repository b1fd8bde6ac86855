"""The fields that several formats share: files, edges' markers, groups written as markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from packaging.markers import Marker

from lockfiles.document import Table
from lockfiles.model import Artifact, Digest
from lockfiles.moments import moment
from lockfiles.specs import parse_marker
from lockfiles.urls import filename_of, redact

Read = Callable[[str], str]

_EXTRA = re.compile(r'extra (==|!=) ("[^"]*")')


def file_of(table: Table, url: str | None = None) -> Artifact:
    """Read one file: its `url`, `path`, `file` or `filename`, its `hash`, `size` and `upload-time`.

    `url` is that of the package, where the file has none of its own.
    """
    address = table.string("url", url)
    digest = table.parsed("hash", Digest.parse)
    try:
        return Artifact(
            filename=_named(table) or filename_of(address or ""),
            digests=(digest,) if digest else (),
            url=address,
            size=table.integer("size", 0) or None,
            upload_time=moment(table.value.get("upload-time")),
        )
    except ValueError as error:
        raise table.fault("", redact(str(error))) from error


def _named(table: Table) -> str | None:
    """Give the name that a file has in the lock, if it has one besides its URL."""
    for key in ("file", "filename", "path"):
        if key in table.value:
            return (
                table.string(key).replace("\\", "/").rpartition("/")[2]
                if key == "path"
                else table.string(key)
            )
    return None


def parse_lock_marker(text: str) -> Marker:
    """Parse a marker that may name extras, as one that asks for them in a set (PEP 751).

    Raises ValueError.
    """
    marker = str(parse_marker(text))
    turned = _EXTRA.sub(lambda match: f"{match[2]} {'not ' if match[1] == '!=' else ''}in extras", marker)
    return parse_marker(turned)


def either(markers: Sequence[Marker | None]) -> Marker | None:
    """Give the marker that holds where any of these does; None always holds."""
    unique = list(dict.fromkeys(markers))
    if not unique or None in unique:
        return None
    return unique[0] if len(unique) == 1 else parse_marker(" or ".join(f"({marker})" for marker in unique))


def both(one: Marker | None, other: Marker | None) -> Marker | None:
    """Give the marker that holds where both do; None always holds."""
    if one is None or other is None or one == other:
        return one or other
    return one & other


def in_groups(groups: Iterable[str], variables: Iterable[str] = ("dependency_groups",)) -> Marker:
    """Give the marker that asks for any of these groups. Raises ValueError for a name with quotes."""
    return parse_marker(" or ".join(f'"{group}" in {name}' for group in groups for name in variables))
