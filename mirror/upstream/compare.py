"""What has become of stocked files upstream: yanked, gone, or replaced by other bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from lockfiles.model import Artifact, Ecosystem
from mirror.config import Config
from mirror.snapshot import Snapshot, Stocked
from mirror.upstream.locate import project_files
from mirror.upstream.session import Upstream, connect


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Change:
    """A stocked file that is no longer upstream what it was; `what` is yanked, vanished or changed."""

    name: str
    version: str
    filename: str
    what: str


def compare(config: Config, snapshot: Snapshot) -> tuple[Change, ...]:
    """Ask the indexes about every file of the snapshot. What is held stays held and served.

    Raises UpstreamError.
    """
    return asyncio.run(_compare(config, snapshot))


async def _compare(config: Config, snapshot: Snapshot) -> tuple[Change, ...]:
    files = snapshot.of_ecosystem(Ecosystem.PYPI)
    async with connect(config) as upstream:
        jobs = [
            _changes(upstream, name, list(group))
            for name, group in groupby(files, key=lambda file: file.name)
        ]
        found = await asyncio.gather(*jobs)
    return tuple(sorted(change for changes in found for change in changes))


async def _changes(upstream: Upstream, name: str, stocked: list[Stocked]) -> list[Change]:
    listed = await project_files(name, upstream)
    return [
        Change(name=name, version=file.version, filename=file.filename, what=what)
        for file in stocked
        if (what := _what(file, [found for found in listed if found.filename == file.filename]))
    ]


def _what(file: Stocked, listed: Iterable[Artifact]) -> str | None:
    listed = tuple(listed)
    if not listed:
        return "vanished"
    digests = set(_sha256(listed))
    if digests and file.sha256 not in digests:
        return "changed"
    return "yanked" if any(found.yanked for found in listed) else None


def _sha256(files: Iterable[Artifact]) -> Iterator[str]:
    return (digest.value for file in files for digest in file.digests if digest.algorithm == "sha256")
