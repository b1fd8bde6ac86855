"""Brings lost files back from where the snapshots say that they came from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from lockfiles.errors import LockstockError
from lockfiles.model import Digest, Ecosystem
from mirror.config import Config
from mirror.layout import Layout
from mirror.snapshot import Stocked
from mirror.store import Expected
from mirror.upstream.clients import CLIENTS
from mirror.upstream.fetch import fetch
from mirror.upstream.session import Upstream, bounds_of, connect

_NO_PLACE = "no snapshot says where it came from"


def refetch(config: Config, missing: Mapping[str, tuple[Stocked, ...]]) -> dict[str, str]:
    """Fetch files by their sha256, which alone is trusted; give the reasons of those that do not come.

    Raises UpstreamError when the user's own clients cannot tell their settings.
    """
    return asyncio.run(_refetch(config, missing))


async def _refetch(config: Config, missing: Mapping[str, tuple[Stocked, ...]]) -> dict[str, str]:
    async with AsyncExitStack() as stack:
        bounds = bounds_of(config)
        upstreams = {
            ecosystem: await stack.enter_async_context(
                connect(config, CLIENTS[Ecosystem(ecosystem)].settings(config.upstreams), bounds)
            )
            for ecosystem in sorted({files[0].ecosystem for files in missing.values()})
        }
        results = await asyncio.gather(
            *(_one(config, upstreams[files[0].ecosystem], files) for files in missing.values())
        )
    return {sha256: reason for sha256, reason in zip(missing, results, strict=True) if reason is not None}


async def _one(config: Config, upstream: Upstream, files: tuple[Stocked, ...]) -> str | None:
    """Try each place; None when one had the file."""
    reason = _NO_PLACE
    for url in dict.fromkeys(file.url for file in files if file.url):
        try:
            async with upstream.bounds.turn(url):
                await _fetch(config, upstream, files[0], url)
        except LockstockError as error:
            reason = str(error)
        else:
            return None
    return reason


async def _fetch(config: Config, upstream: Upstream, file: Stocked, url: str) -> None:
    expected = Expected(label=file.filename, digests=(Digest("sha256", file.sha256),), size=file.size)
    store = Layout(config.root).store
    await fetch(upstream.client, url, store, expected, upstream.retries, lambda _: None)
