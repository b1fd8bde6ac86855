"""Asks the indexes for what a lock leaves out: the files behind its digests, and their URLs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import (
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from lockfiles.errors import LockstockError
from lockfiles.filenames import check_wheel_name
from lockfiles.model import Artifact, Digest, IndexSource, Package
from mirror.config import UpstreamSpec
from mirror.errors import DigestMismatchError, NotFoundUpstreamError, UpstreamError
from mirror.upstream.answers import LocatedFiles, locked_digests
from mirror.upstream.fetch import Page, get, local_path
from mirror.upstream.session import Upstream
from mirror.upstream.settings import is_pinned, is_remote, without_secrets
from mirror.upstream.simple import ACCEPT, Wanted, file_version, parse_page

FilesOf = Callable[[Package, Upstream], Awaitable[tuple[Artifact, ...]]]


def is_located(package: Package, upstreams: Iterable[UpstreamSpec] = ()) -> bool:
    """Say whether the lock itself tells where each file of the package lies.

    For a name that is pinned to an index, that index alone tells.
    """
    if not isinstance(package.source, IndexSource):
        return True
    named = bool(package.artifacts) and all(artifact.url for artifact in package.artifacts)
    return named and not is_pinned(package.name, upstreams)


async def locate(
    packages: Iterable[Package],
    upstream: Upstream,
    known: LocatedFiles,
    ask: FilesOf,
    tell: Callable[[Package], None] = lambda _: None,
) -> tuple[Package, ...]:
    """Ask for the files of each package in the way of its ecosystem, and remember the answers.

    `tell` is given each package with its files as soon as they are known, and half of the turns at a host
    are left for what it begins with them.

    Raises NotFoundUpstreamError, DigestMismatchError or UpstreamError: the first package's.
    """
    turns = asyncio.Semaphore(max(1, upstream.bounds.per_host // 2))

    async def found(package: Package) -> Package | LockstockError:
        try:
            async with turns:
                files = await ask(package, upstream)
        except LockstockError as error:
            return error
        known.put(package, files)
        located = replace(package, artifacts=files)
        tell(located)
        return located

    results = await asyncio.gather(*map(found, packages))
    for result in results:
        if isinstance(result, LockstockError):
            raise result
    return tuple(result for result in results if isinstance(result, Package))


async def files_of(package: Package, upstream: Upstream) -> tuple[Artifact, ...]:
    """Go through the indexes until every locked digest has its file, or none is left to ask.

    Raises NotFoundUpstreamError, DigestMismatchError or UpstreamError.
    """
    allowed = locked_digests(package)
    wanted_version = _version(package.version or "")
    names: list[str] = []
    found: dict[str, Artifact] = {}

    def wanted(filename: str) -> bool:
        names.append(filename)
        return wanted_version is not None and file_version(filename, package.name) == wanted_version

    for index in upstream.settings.sources(package.name):
        for file in await _page(upstream, index, package.name, wanted, allowed):
            if _is_whole(file) and (not file.digests or allowed & set(file.digests)):
                found.setdefault(file.filename, file)
        if allowed <= {digest for file in found.values() for digest in file.digests}:
            break
    if not found:
        raise _not_found(package, names)
    return tuple(sorted(found.values(), key=lambda file: file.filename))


async def project_files(name: str, upstream: Upstream) -> tuple[Artifact, ...]:
    """Give all files that the indexes have of a project. Raises UpstreamError."""
    pages = [
        await _page(upstream, index, name, _is_named(name), frozenset())
        for index in upstream.settings.sources(name)
    ]
    return tuple(file for page in pages for file in page)


def _is_named(name: str) -> Wanted:
    return lambda filename: file_version(filename, name) is not None


def _is_whole(file: Artifact) -> bool:
    """Say whether the name is a whole wheel's or sdist's; indexes hold other things, too."""
    try:
        if file.filename.endswith(".whl"):
            check_wheel_name(file.filename)
            parse_wheel_filename(file.filename)
        else:
            parse_sdist_filename(file.filename)
    except ValueError:  # of packaging, or of the check
        return False
    return True


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _not_found(package: Package, names: Iterable[str]) -> LockstockError:
    versions = sorted({v for name in names if (v := file_version(name, package.name))})
    if not versions:
        return NotFoundUpstreamError(
            "no index has a package of this name",
            where=package.label,
            hint="check the name, and the indexes that `pip config list` shows",
        )
    if _version(package.version or "") not in versions:
        return NotFoundUpstreamError(
            f"no index has this version; the newest there is {versions[-1]}",
            where=package.label,
            hint="it may have been deleted, or a private index is missing in `pip config list`; lock again",
        )
    return DigestMismatchError(
        "no file of this version has a digest that the lock allows",
        where=package.label,
        hint="the upstream's files are not those that were locked: ask who runs it, "
        "or lock again if the change is known",
    )


async def _page(
    upstream: Upstream, index: str, name: str, wanted: Wanted, allowed: frozenset[Digest]
) -> tuple[Artifact, ...]:
    """Give the wanted files that an index has of a project; none where it does not know it."""
    is_links = index in upstream.settings.find_links
    if is_links and not is_remote(index):
        return _in_local_links(index, wanted)
    url = index if is_links else f"{index.rstrip('/')}/{canonicalize_name(name)}/"
    if urlsplit(url).scheme == "file":
        return _in_local_index(url, wanted)
    page = await (_links(upstream, url) if is_links else _ask(upstream, url))
    if page is None:
        return ()
    try:
        narrow = parse_page(page.kind, page.body, page.url, wanted, allowed) if allowed else ()
        return narrow or parse_page(page.kind, page.body, page.url, wanted)
    except ValueError as error:
        raise UpstreamError(f"the answer cannot be used: {error}", where=without_secrets(url)) from error


async def _ask(upstream: Upstream, url: str) -> Page | None:
    async with upstream.bounds.turn(url):
        return await get(upstream.client, url, upstream.retries, headers={"Accept": ACCEPT})


async def _links(upstream: Upstream, url: str) -> Page | None:
    """Ask for a page of links once, for all packages."""
    if url not in upstream.links:
        upstream.links[url] = asyncio.create_task(_ask(upstream, url))
    return await asyncio.shield(upstream.links[url])


def _in_local_index(url: str, wanted: Wanted) -> tuple[Artifact, ...]:
    try:
        return parse_page("text/html", (local_path(url) / "index.html").read_bytes(), url, wanted)
    except OSError:
        return ()


def _in_local_links(link: str, wanted: Wanted) -> tuple[Artifact, ...]:
    """Give the wanted files of a find-links folder, hashed here since nobody else did, or of a page."""
    folder = local_path(link)
    if folder.is_file():
        return parse_page("text/html", folder.read_bytes(), folder.absolute().as_uri(), wanted)
    return tuple(
        Artifact(
            filename=file.name,
            url=file.absolute().as_uri(),
            digests=(_file_digest(file),),
            size=file.stat().st_size,
        )
        for file in sorted(folder.iterdir() if folder.is_dir() else ())
        if wanted(file.name)
    )


def _file_digest(file: Path) -> Digest:
    with file.open("rb") as stream:
        return Digest("sha256", hashlib.file_digest(stream, "sha256").hexdigest())
