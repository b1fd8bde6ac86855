"""Asks an npm registry for what a lock leaves out: where a version's tarball lies, and its integrity."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from lockfiles.errors import LockstockError
from lockfiles.formats.node import parse_integrity, tarball_name
from lockfiles.model import Artifact, Digest, IndexSource, Package
from mirror.config import UpstreamSpec
from mirror.errors import DigestMismatchError, NotFoundUpstreamError, UpstreamError
from mirror.upstream.fetch import get
from mirror.upstream.session import Upstream
from mirror.upstream.settings import without_secrets

ABBREVIATED = "application/vnd.npm.install-v1+json"
_ACCEPT = f"{ABBREVIATED}; q=1.0, application/json; q=0.8"


def is_located(package: Package, upstreams: Iterable[UpstreamSpec] = ()) -> bool:
    """Say whether the lock itself tells where the tarball lies and what it must be."""
    if not isinstance(package.source, IndexSource):
        return True
    return all(artifact.url and artifact.digests for artifact in package.artifacts)


async def files_of(package: Package, upstream: Upstream) -> tuple[Artifact, ...]:
    """Ask for a version's tarball. What the lock says of it stays, and the registry has to agree.

    Raises NotFoundUpstreamError, DigestMismatchError or UpstreamError.
    """
    registries = upstream.settings.sources(package.name)
    if not registries:
        raise UpstreamError(
            "the lock leaves out where it lies, and no registry is known",
            where=package.label,
            hint="install npm here and set its registry, or lock with `npm install "
            "--omit-lockfile-registry-resolved=false`",
        )
    known = False
    for registry in registries:
        url = f"{registry.rstrip('/')}/{quote(package.name, safe='@')}"
        async with upstream.bounds.turn(url):
            page = await get(upstream.client, url, upstream.retries, headers={"Accept": _ACCEPT})
        if page is not None:
            known = True
            if dist := _dist(page.body, package, url):
                return (_artifact(dist, package, url),)
    raise _not_found(package, known=known)


def _dist(body: bytes, package: Package, url: str) -> dict[str, Any] | None:
    """Find a version in a packument. Raises UpstreamError where it is none, or another package's."""
    try:
        packument = json.loads(body)
        name, versions = packument["name"], packument["versions"]
        dist = dict(versions).get(package.version, {}).get("dist")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UpstreamError(
            "the answer is not what a registry says of a package",
            where=without_secrets(url),
            hint="a proxy or a page to log in may have answered: look at `npm config get registry`",
        ) from error
    if name != package.name:
        raise UpstreamError(
            f"the registry answers with another package: {str(name)[:80]!r}",
            where=without_secrets(url),
            hint="do not install from it; ask who runs the registry",
        )
    return dist if isinstance(dist, dict) else None


def _artifact(dist: dict[str, Any], package: Package, url: str) -> Artifact:
    try:
        digests = _digests(dist)
        address = str(dist["tarball"])
        if urlsplit(address).scheme not in ("http", "https"):
            raise ValueError("a tarball has no http address")
    except (KeyError, ValueError) as error:
        raise UpstreamError(f"the answer cannot be used: {error}", where=without_secrets(url)) from error
    locked = package.artifacts[0].digests
    told = {digest.algorithm: digest for digest in digests}
    for digest in locked:
        if told.get(digest.algorithm, digest) != digest:
            raise DigestMismatchError(
                f"the registry tells {told[digest.algorithm]}, but the lock {digest}",
                where=package.label,
                hint="do not install it; ask who runs the registry, or lock again if the change is known",
            )
    strong = tuple(digest for digest in digests if digest.is_strong)
    return Artifact(
        filename=tarball_name(package.name, str(package.version)),
        digests=locked or strong or digests,
        url=address,
    )


def _digests(dist: dict[str, Any]) -> tuple[Digest, ...]:
    """Read `integrity` and `shasum`, which old registries have alone. Raises ValueError."""
    integrity = parse_integrity(str(dist.get("integrity") or ""))
    shasum = str(dist.get("shasum") or "")
    if any(digest.algorithm == "sha1" for digest in integrity) or not shasum:
        return integrity
    return (Digest("sha1", shasum.lower()), *integrity)


def _not_found(package: Package, *, known: bool) -> LockstockError:
    if known:
        reason = "no registry has this version; it may have been unpublished"
    else:
        reason = "no registry has a package of this name"
    return NotFoundUpstreamError(
        reason, where=package.label, hint="check the registries that `npm config list` shows, or lock again"
    )
