"""The upstreams of the user's own pip, so that proxies, private indexes and certificates just work.

pip is asked, not imitated: its configuration files, environment variables and built-in default
are merged by pip itself, in a child process.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit, urlunsplit

from lockfiles.model import Ecosystem
from mirror.config import UpstreamSpec
from mirror.errors import UpstreamError
from mirror.upstream.questions import ask

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """How to ask the indexes. URLs may hold credentials, so they are never printed as they are.

    `pinned` indexes are asked for the names that they are pinned to, and for nothing else.
    `authorization` has headers by the place, `//host/path/`, that they are for.
    """

    indexes: tuple[str, ...]
    pinned: tuple[UpstreamSpec, ...] = ()
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    proxy: str | None = None
    timeout: float = 15.0
    retries: int = 5
    authorization: Mapping[str, str] = field(default_factory=dict, repr=False)

    def sources(self, name: str) -> tuple[str, ...]:
        """Give the indexes and find-links to ask for a name: those it is pinned to, or else all others."""
        pinned = tuple(spec.index for spec in self.pinned if is_pinned(name, (spec,)))
        return pinned or (*self.indexes, *self.find_links)

    @property
    def named(self) -> tuple[str, ...]:
        """All URLs of indexes and of pages of links that the user named."""
        return (*self.indexes, *(spec.index for spec in self.pinned), *filter(is_remote, self.find_links))


def is_remote(place: str) -> bool:
    """Say whether a place is on the web, and not a path or a file: URL."""
    return urlsplit(place).scheme in ("http", "https")


def is_pinned(name: str, specs: Iterable[UpstreamSpec]) -> bool:
    """Say whether a package is to come from an index of its own."""
    return any(fnmatchcase(name, pattern) for spec in specs for pattern in spec.packages)


def pip_settings(specs: Collection[UpstreamSpec]) -> UpstreamSettings:
    """Ask pip for its settings; what lockstock.toml names goes before. Raises UpstreamError."""
    answer = ask(Ecosystem.PYPI)
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise UpstreamError(
            f"pip cannot tell its settings: {reason[0]}", hint="`pip config debug` shows what it reads"
        )
    said = json.loads(answer.stdout)
    indexes = [] if said["no_index"] else [said["index_url"], *said["extra_index_urls"]]
    own = [spec.index for spec in specs if not spec.packages]
    return UpstreamSettings(
        indexes=tuple(own or indexes),
        pinned=tuple(spec for spec in specs if spec.packages),
        find_links=() if own else tuple(said["find_links"]),
        cert=said["cert"],
        client_cert=said["client_cert"],
        trusted_hosts=tuple(said["trusted_hosts"]),
        proxy=said["proxy"] or None,
        timeout=float(said["timeout"]),
        retries=int(said["retries"]),
    )


def without_secrets(url: str) -> str:
    """Give the URL without the credentials and the query it may carry."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def expanded(url: str) -> str:
    """Put the environment's values in place of `${NAME}`, as pip does in requirements."""
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), url)
