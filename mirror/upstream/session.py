"""An open connection to the upstreams: the HTTP client, its settings and its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mirror.config import Config
from mirror.upstream.bounds import Bounds
from mirror.upstream.fetch import Page
from mirror.upstream.http import Client, http_client
from mirror.upstream.settings import UpstreamSettings, pip_settings

_RETRIES_AT_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What is needed to ask. `bounds` are on the requests at a time, `max_file_size` is in bytes.

    `links` are the pages of links that were asked for, which are the same for every package.
    """

    client: Client
    settings: UpstreamSettings
    bounds: Bounds
    max_file_size: int
    links: dict[str, asyncio.Task[Page | None]] = field(default_factory=dict)

    @property
    def retries(self) -> int:
        """How often a request is tried again."""
        return min(self.settings.retries, _RETRIES_AT_MOST)


@asynccontextmanager
async def connect(
    config: Config, settings: UpstreamSettings | None = None, bounds: Bounds | None = None
) -> AsyncIterator[Upstream]:
    """Open the upstreams that these settings name, or else the user's own pip. Raises UpstreamError.

    Those of one run share its bounds.
    """
    settings = settings or pip_settings(config.upstreams)
    async with http_client(settings, config.concurrency) as client:
        yield Upstream(
            client=client,
            settings=settings,
            bounds=bounds or bounds_of(config),
            max_file_size=config.max_file_size,
        )


def bounds_of(config: Config) -> Bounds:
    """Give new bounds for a run."""
    return Bounds(config.concurrency, config.per_host)
