"""Brings a snapshot to every place where clients look, and takes old ones away from there."""

from __future__ import annotations

from collections.abc import Collection

from mirror.config import Config
from mirror.layout import Layout
from mirror.publish import devpi, devpi_server, simple
from mirror.snapshot import Snapshot


def deliver(config: Config, name: str, snapshot: Snapshot) -> None:
    """Publish a snapshot, and see that clients get it.

    The caller holds the mirror. Doing it again does nothing. Raises RegistryError, DiskFullError;
    clients see what they saw before then.
    """
    layout = Layout(config.root)
    published = devpi.publish(layout.devpi, name, snapshot, layout.store)
    simple.publish(layout, name, snapshot, config.url)
    withdraw(layout, {*layout.snapshots.names(), name})
    if published.changed:
        from mirror.publish.check import check_index  # its HTTP client takes long to import

        with devpi_server.start(layout.devpi, config.port) as server:
            check_index(server.index_url, snapshot)


def withdraw(layout: Layout, keep: Collection[str]) -> None:
    """Take away what was published of all snapshots but those named. Raises RegistryError."""
    devpi.prune(layout.devpi, keep)
    simple.prune(layout, keep)


def index_url(port: int) -> str:
    """Give the URL to give to pip and uv as their index: that of the static tree."""
    return f"http://{devpi_server.HOST}:{port}/simple/"
