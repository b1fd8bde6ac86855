"""How each ecosystem's upstreams are asked: one table, so that nothing else tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lockfiles.model import Ecosystem, Package
from mirror.config import UpstreamSpec
from mirror.tarball import check_tarball
from mirror.upstream import locate, npm
from mirror.upstream.npm_settings import npm_settings
from mirror.upstream.settings import UpstreamSettings, pip_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The ways of one ecosystem's own client.

    `settings` asks it for its own, `is_located` says whether a lock tells all that is needed to
    fetch, `files_of` asks an index for the rest, `inspect` looks at bytes whose digests are right.
    """

    settings: Callable[[Collection[UpstreamSpec]], UpstreamSettings]
    is_located: Callable[[Package, Iterable[UpstreamSpec]], bool]
    files_of: locate.FilesOf
    inspect: Callable[[Path, Package], None] | None = None


CLIENTS: Mapping[Ecosystem, Client] = {
    Ecosystem.PYPI: Client(settings=pip_settings, is_located=locate.is_located, files_of=locate.files_of),
    Ecosystem.NPM: Client(
        settings=npm_settings, is_located=npm.is_located, files_of=npm.files_of, inspect=check_tarball
    ),
}
