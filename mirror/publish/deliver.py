"""Brings a snapshot to every place where clients look, and takes old ones away from there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from lockfiles.errors import LockstockError
from lockfiles.model import Ecosystem
from mirror.config import Config
from mirror.console import human_size, plural, report_error, say
from mirror.destinations import ObjectStoreSpec, RemoteDevpiSpec
from mirror.layout import Layout
from mirror.plan import Plan
from mirror.publish import devpi, devpi_accounts, devpi_server, devpi_state, simple
from mirror.publish.check import check_index
from mirror.snapshot import Snapshot

if TYPE_CHECKING:
    from mirror.publish.devpi_ahead import Ahead


_P = ParamSpec("_P")
_T = TypeVar("_T")


class Delivery:
    """Publishes what a longer run comes to.

    What was made ready for it ends with its `with` block, at once if that fails.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = ExitStack()
        self._ahead: Ahead | None = None

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def prepare(self) -> Callable[[], None]:
        """Make a process for what can be done before the snapshot is known, and give what starts it.

        The caller holds the mirror, and has no threads yet.
        """
        from mirror.publish.devpi_ahead import Ahead  # a run with no changes does not come here

        ahead = Ahead(Layout(self._config.root).devpi, self._config.port, private=self._config.private)
        self._ahead = self._stack.enter_context(ahead)
        return ahead.start

    def expect(self, plan: Plan) -> None:
        """Tell what was made ready which files will come, as far as their digests are known."""
        if self._ahead:
            store = Layout(self._config.root).store
            self._ahead.expect(
                [
                    (store.path(digest.value), wanted.artifact.filename)
                    for wanted in plan.fetch
                    for digest in wanted.artifact.digests
                    if wanted.package.ecosystem is Ecosystem.PYPI and digest.algorithm == "sha256"
                ]
            )

    def publish(self, name: str, snapshot: Snapshot) -> None:
        """Deliver a snapshot."""
        deliver(self._config, name, snapshot, ahead=self._ahead)


def deliver(
    config: Config, name: str, snapshot: Snapshot, *, mend: bool = False, ahead: Ahead | None = None
) -> None:
    """Publish a snapshot, and see that clients get it.

    The caller holds the mirror. Doing it again does nothing, but that with `mend` it looks at what is
    there, in place of the notes of the last time. Raises RegistryError, DiskFullError,
    ObjectStoreError; clients see what they saw before then, where it could not be brought to.
    """
    layout = Layout(config.root)
    if mend:
        _forget(layout)
    call, begin = (ahead.call, ahead.begin) if ahead else (_call, partial)
    publishing = begin(devpi.publish, layout.devpi, name, snapshot, layout.store, config.in_house)
    simple.lay(layout, name, snapshot, config.url, mend=mend)
    published = publishing()
    simple.show(layout, name)
    keep = {*layout.snapshots.names(), name}
    call(devpi.prune, layout.devpi, keep)
    simple.prune(layout, keep)
    if published.changed:
        _check(config, layout, snapshot, ahead)
    _send_elsewhere(config, layout, name, snapshot, keep)


def _send_elsewhere(
    config: Config, layout: Layout, name: str, snapshot: Snapshot, keep: Collection[str]
) -> None:
    """Bring it to every other place: what cannot be reached keeps it from none of the others.

    Raises the first error when all were tried; the others are told.
    """
    sendings: list[Callable[[], None]] = []
    if config.object_store:
        sendings.append(partial(_send, layout, name, config.object_store))
    if config.remote_devpi:
        sendings.append(partial(_send_to_devpi, layout, name, snapshot, config.remote_devpi, keep))
    errors: list[LockstockError] = []
    for send in sendings:
        try:
            send()
        except LockstockError as error:
            errors.append(error)
    for other in errors[1:]:
        report_error(other)
    if errors:
        raise errors[0]


def _call(function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
    return function(*args, **named)


def _check(config: Config, layout: Layout, snapshot: Snapshot, ahead: Ahead | None) -> None:
    account = devpi_accounts.root(layout.devpi) if config.private else None
    with ExitStack() as stack:
        if ahead:
            url = ahead.index_url()
        else:
            server = devpi_server.start(layout.devpi, config.port, private=config.private)
            url = stack.enter_context(server).index_url
        check_index(url, snapshot, in_house=bool(config.in_house), account=account)


def _send(layout: Layout, name: str, spec: ObjectStoreSpec) -> None:
    from mirror.publish import object_store  # few have one, and a run with no changes takes milliseconds

    if sent := object_store.publish(layout, name, spec, partial(_say_sending, spec.place)):
        say(f"{spec.place}: {plural(sent.pages, 'page')} changed, {plural(sent.deleted, 'object')} deleted")


def _send_to_devpi(
    layout: Layout, name: str, snapshot: Snapshot, spec: RemoteDevpiSpec, keep: Collection[str]
) -> None:
    from mirror.publish import devpi_remote  # as above

    begin = partial(_say_sending, spec.place)
    if sent := devpi_remote.publish(layout, name, snapshot, spec, keep, begin):
        copied, deleted = plural(sent.copied, "file"), plural(sent.deleted, "old snapshot")
        say(f"{spec.place}: shows {name}; {copied} copied there, {deleted} deleted")


def _say_sending(place: str, files: int, size: int) -> None:
    say(f"{place}: sending {plural(files, 'file')}, {human_size(size)}")


def withdraw(config: Config, keep: Collection[str]) -> None:
    """Take away what was published of all snapshots but those named, and what is shown.

    The caller holds the mirror. An object store has no more than what it shows, and files of what it
    showed before, until the next snapshot. Raises RegistryError; the next refresh does it, too.
    """
    layout = Layout(config.root)
    devpi.prune(layout.devpi, keep)
    simple.prune(layout, keep)
    if config.remote_devpi:
        from mirror.publish import devpi_remote  # as above

        if deleted := devpi_remote.prune(layout, config.remote_devpi, keep):
            say(f"{config.remote_devpi.place}: {plural(deleted, 'old snapshot')} deleted")


def _forget(layout: Layout) -> None:
    from mirror.publish import devpi_remote, object_store

    devpi_state.forget(layout.devpi)
    object_store.forget(layout)
    devpi_remote.forget(layout)


def index_url(port: int, host: str = devpi_server.HOST) -> str:
    """Give the URL to give to pip and uv as their index: that of the static tree."""
    return f"http://{devpi_server.in_url(host)}:{port}/simple/"
