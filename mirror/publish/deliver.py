"""Brings a snapshot to every place where clients look, and takes old ones away from there."""

from __future__ import annotations

from collections.abc import Collection

from mirror.config import Config, ObjectStoreSpec
from mirror.console import human_size, plural, say
from mirror.layout import Layout
from mirror.publish import devpi, devpi_accounts, devpi_server, simple
from mirror.snapshot import Snapshot


def deliver(config: Config, name: str, snapshot: Snapshot, *, mend: bool = False) -> None:
    """Publish a snapshot, and see that clients get it.

    The caller holds the mirror. Doing it again does nothing, but that with `mend` it looks at what is
    there, in place of the notes of the last time. Raises RegistryError, DiskFullError,
    ObjectStoreError; clients see what they saw before then, where it was not brought to yet.
    """
    layout = Layout(config.root)
    if mend:
        _forget(layout)
    published = devpi.publish(layout.devpi, name, snapshot, layout.store, config.in_house)
    simple.publish(layout, name, snapshot, config.url, mend=mend)
    withdraw(layout, {*layout.snapshots.names(), name})
    if published.changed:
        from mirror.publish.check import check_index  # its HTTP client takes long to import

        with devpi_server.start(layout.devpi, config.port, private=config.private) as server:
            account = devpi_accounts.root(layout.devpi) if config.private else None
            check_index(server.index_url, snapshot, in_house=bool(config.in_house), account=account)
    if config.object_store:
        _send(layout, name, config.object_store)


def _send(layout: Layout, name: str, spec: ObjectStoreSpec) -> None:
    from mirror.publish import object_store  # few have one, and a run with no changes takes milliseconds

    def begin(files: int, size: int) -> None:
        say(f"{spec.place}: sending {plural(files, 'file')}, {human_size(size)}")

    if sent := object_store.publish(layout, name, spec, begin):
        say(f"{spec.place}: {plural(sent.pages, 'page')} changed, {plural(sent.deleted, 'object')} deleted")


def withdraw(layout: Layout, keep: Collection[str]) -> None:
    """Take away what was published of all snapshots but those named. Raises RegistryError."""
    devpi.prune(layout.devpi, keep)
    simple.prune(layout, keep)


def _forget(layout: Layout) -> None:
    from mirror.publish import object_store

    devpi.forget(layout.devpi)
    object_store.forget(layout)


def index_url(port: int) -> str:
    """Give the URL to give to pip and uv as their index: that of the static tree."""
    return f"http://{devpi_server.HOST}:{port}/simple/"
