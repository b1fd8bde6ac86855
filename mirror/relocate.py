"""Writes a lock so that it names the files of an index: the mirror's, in place of the upstream's."""

from __future__ import annotations

import asyncio

from lockfiles.model import Artifact, Digest, GitSource, IndexSource, Package, UrlSource
from lockfiles.rewrite import rewrite
from mirror.config import Config
from mirror.errors import DigestMismatchError, NotFoundUpstreamError, UpstreamError
from mirror.inputs import LockText
from mirror.upstream.clients import CLIENTS
from mirror.upstream.failures import UnreachableError
from mirror.upstream.session import Upstream, connect
from mirror.upstream.settings import UpstreamSettings, without_secrets

_SERVED = (IndexSource, UrlSource)


def relocated(config: Config, lock: LockText, index: str) -> str:
    """Give the lock's text with the URLs by which `index` serves its files; all else stays.

    What the index lacks keeps its URL: the files of platforms that are not stocked. Raises
    LockError where the format has no URLs, NotFoundUpstreamError where the index has no file of the
    lock at all, and UpstreamError.
    """
    packages = [p for p in lock.parse().packages if isinstance(p.source, _SERVED) and p.artifacts]
    filename, read = lock.spec.path.name, lock.includes.__getitem__
    rewrite(filename, lock.text, lambda _: None, read)  # refuses other locks before anything is asked
    urls = asyncio.run(_urls(config, index, packages))
    if packages and not urls:
        raise NotFoundUpstreamError(
            "the index has no file of this lock",
            where=without_secrets(index),
            hint="stock it first: `mirror refresh`",
        )

    def url_for(artifact: Artifact) -> str | None:
        return next((urls[digest] for digest in artifact.digests if digest in urls), None)

    return rewrite(filename, lock.text, url_for, read)


def left_elsewhere(lock: LockText, text: str) -> tuple[str, ...]:
    """Say of each package of a relocated lock that clients still fetch it from where it always was."""
    found = []
    for package in lock.parse().packages:
        if isinstance(package.source, GitSource):
            found.append(f"{package.name} is still fetched from its git repository")
        elif isinstance(package.source, UrlSource) and package.source.url in text:
            found.append(f"{package.name} is still fetched from {without_secrets(package.source.url)}")
    return tuple(found)


async def _urls(config: Config, index: str, packages: list[Package]) -> dict[Digest, str]:
    async with connect(config, UpstreamSettings(indexes=(index,))) as upstream:
        found = await asyncio.gather(*(_files(package, upstream) for package in packages))
    return {
        digest: without_secrets(file.url)
        for files in found
        for file in files
        for digest in file.digests
        if file.url
    }


async def _files(package: Package, upstream: Upstream) -> tuple[Artifact, ...]:
    try:
        return await CLIENTS[package.ecosystem].files_of(package, upstream)
    except UnreachableError as error:
        hint = "start `mirror serve`, or give the --index where the mirror is served"
        raise UpstreamError(error.reason, where=error.where, hint=hint) from error
    except (NotFoundUpstreamError, DigestMismatchError):
        return ()
