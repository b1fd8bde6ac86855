"""Looks for what would keep a refresh or a server from working, before it does."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lockfiles.errors import LockstockError
from lockfiles.formats import ecosystem_of
from lockfiles.model import Ecosystem
from mirror import config as configuration
from mirror.config import Config
from mirror.console import human_size, plural
from mirror.destinations import ObjectStoreSpec, RemoteDevpiSpec
from mirror.inputs import check_presence
from mirror.layout import Layout
from mirror.publish import devpi_server, devpi_state
from mirror.status import read_status

if TYPE_CHECKING:
    from mirror.upstream.session import Upstream

_SKEW = 60.0  # seconds
_OLD = 36 * 3600.0
_LITTLE, _LEAST = 0.05, 50_000_000  # of the disk, and bytes
_FEW_INODES = 10_000
_NETWORK = "check the network, the proxy, and `pip config list` or `npm config list`"


class Grade(StrEnum):
    """How bad it is; what fails keeps the mirror from working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    topic: str
    grade: Grade
    message: str
    hint: str = ""


def examine(file: Path) -> Iterator[Finding]:
    """Check everything that a mirror needs, as far as each check can go; nothing is written."""
    try:
        config = configuration.load_mirror(file)
    except LockstockError as error:
        yield _failed("configuration", str(error), error.hint)
        return
    yield _configuration(config)
    yield from _locks(config)
    layout = Layout(config.root)
    yield from _folder(layout)
    yield from _disk(layout)
    yield from _upstreams(config)
    yield _devpi(config, layout)
    if config.object_store:
        yield _object_store(config.object_store, layout)
    if config.remote_devpi:
        yield _remote_devpi(config.remote_devpi, layout)
    yield _docker()
    yield from _refreshes(layout)


def _configuration(config: Config) -> Finding:
    if not config.locks:
        hint = "add [locks.NAME] with a path, unless bundles fill this mirror"
        return _warning("configuration", "it names no lock", hint)
    names = ", ".join(lock.name for lock in config.locks)
    return _fine("configuration", f"{config.file}: locks {names}; {plural(len(config.targets), 'target')}")


def _locks(config: Config) -> Iterator[Finding]:
    for spec in config.locks:
        try:
            check_presence(spec)
        except LockstockError as error:
            yield _failed("locks", str(error), error.hint)


def _folder(layout: Layout) -> Iterator[Finding]:
    place = _existing(layout.root)
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        hint = f"chown it to the user who refreshes (this is user id {os.geteuid()})"
        yield _failed("permissions", f"{place} cannot be written", hint)
        return
    foreign = [path for path in _parts(layout) if path.stat().st_uid != place.stat().st_uid]
    if foreign:
        hint = f"chown -R them as {place} is: refreshes ran as different users"
        names = ", ".join(map(str, foreign))
        yield Finding(
            topic="permissions", grade=Grade.WARNING, message=f"another user owns {names}", hint=hint
        )
    else:
        yield _fine("permissions", f"{layout.root} can be written")
    if len({path.stat().st_dev for path in (place, *_parts(layout))}) > 1:
        hint = "keep the mirror's folder on one file system: across, published files are copies"
        yield _warning("permissions", "its parts lie on several disks", hint)


def _parts(layout: Layout) -> list[Path]:
    places = (layout.store.root, layout.snapshots.root, layout.tree, layout.devpi)
    return [place for place in places if place.exists()]


def _disk(layout: Layout) -> Iterator[Finding]:
    place = _existing(layout.root)
    usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    message = f"{human_size(usage.free)} of {human_size(usage.total)} are free"
    hint = "`mirror prune --dry-run` says what can go; a smaller `keep` in lockstock.toml frees more"
    if usage.free < max(usage.total * _LITTLE, _LEAST):
        yield _warning("disk", message, hint)
    elif inodes.f_files and inodes.f_favail < _FEW_INODES:
        yield _warning("disk", f"only {inodes.f_favail} more files fit", hint)
    else:
        yield _fine("disk", message)


def _upstreams(config: Config) -> Iterator[Finding]:
    """Ask every index for its first page, of which only the head is read, and compare clocks."""
    try:
        answers = asyncio.run(_ask_all(config))
    except LockstockError as error:
        yield _failed("upstreams", str(error), error.hint)
        return
    skews = []
    for answer, skew in answers:
        yield answer
        if skew is not None:
            skews.append(skew)
    if skews:
        yield _clock(min(skews, key=abs))


async def _ask_all(config: Config) -> list[tuple[Finding, float | None]]:
    """Ask the indexes of every ecosystem that the locks are of, as far as their names tell."""
    from mirror.upstream.clients import CLIENTS
    from mirror.upstream.session import connect
    from mirror.upstream.settings import is_remote

    answers = []
    for ecosystem in sorted({ecosystem_of(lock.path.name) for lock in config.locks} or {Ecosystem.PYPI}):
        async with connect(config, CLIENTS[ecosystem].settings(config.upstreams)) as upstream:
            pinned = (spec.index for spec in upstream.settings.pinned)
            urls = dict.fromkeys(filter(is_remote, (*upstream.settings.indexes, *pinned)))
            answers += await asyncio.gather(*(_ask(upstream, url) for url in urls))
    return answers


async def _ask(upstream: Upstream, url: str) -> tuple[Finding, float | None]:
    from mirror.upstream.settings import without_secrets

    begun, shown = time.monotonic(), without_secrets(url)
    try:
        answer = await upstream.client.ask(f"{url.rstrip('/')}/", lambda _: None)
    except LockstockError as error:
        reason = f"{shown}: {error.reason}"
        return _failed("upstreams", reason, error.hint or _NETWORK), None
    status, date = answer.status, answer.header("Date")
    if status in (401, 403):
        hint = "give credentials as its client takes them: in pip's index URL, in netrc, or in .npmrc"
        return _failed("upstreams", f"{shown} refuses access ({status})", hint), _skew(date)
    if status >= 500:
        return _failed("upstreams", f"{shown} answers {status}", "try again later"), _skew(date)
    return _fine("upstreams", f"{shown} answers in {(time.monotonic() - begun) * 1000:.0f} ms"), _skew(date)


def _skew(date: str) -> float | None:
    with suppress(ValueError, TypeError, OverflowError):
        return time.time() - parsedate_to_datetime(date).timestamp()
    return None


def _clock(skew: float) -> Finding:
    if abs(skew) > _SKEW:
        message = f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the upstream's"
        return _failed("clock", message, "set it by NTP: certificates and tokens are valid by the clock")
    return _fine("clock", "agrees with the upstream's")


def _devpi(config: Config, layout: Layout) -> Finding:
    if not devpi_state.server_folder(layout.devpi).is_dir():
        return _fine("devpi", "not there yet; the first refresh makes it")
    try:
        up = devpi_server.is_up(layout.devpi, config.port)
    except (LockstockError, OSError, ValueError) as error:
        hint = error.hint if isinstance(error, LockstockError) else f"move {layout.devpi} away and refresh"
        return _failed("devpi", str(error), hint)
    return _fine("devpi", f"served on port {config.port}" if up else "not running; `mirror serve` starts it")


def _object_store(spec: ObjectStoreSpec, layout: Layout) -> Finding:
    """Look whether the store is reached, shows what is served here, and shows it to clients."""
    import httpx

    from mirror.publish.object_store import shown

    try:
        names = shown(spec)
        current = layout.snapshots.readable()
        if current and names != {artifact.name for artifact in current.of_ecosystem(Ecosystem.PYPI)}:
            message = f"{spec.place} shows other packages than this mirror does"
            return _warning("object store", message, "run `mirror publish`")
        if names is not None and spec.url:
            httpx.get(f"{spec.url}/simple/index.json", timeout=10).raise_for_status()
    except LockstockError as error:
        return _failed("object store", str(error), error.hint)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        hint = "let clients read the bucket, or look at what stands in front of it and at `url`"
        return _failed("object store", f"clients cannot read it: {error}".splitlines()[0], hint)
    return _fine("object store", f"{spec.place} is reached" + ("" if names is not None else "; it is empty"))


def _remote_devpi(spec: RemoteDevpiSpec, layout: Layout) -> Finding:
    """Look whether it answers, lets the user in, and shows clients what is served here."""
    from mirror.publish.devpi_remote import shown

    try:
        name = shown(spec)
    except LockstockError as error:
        return _failed("remote devpi", str(error), error.hint)
    current = layout.snapshots.current_name()
    if current and name != current:
        message = f"{spec.place} shows {name or 'no snapshot'}, and not {current}"
        return _warning("remote devpi", message, "run `mirror publish`")
    return _fine("remote devpi", f"{spec.place} is reached, and {spec.user} may log in")


def _docker() -> Finding:
    import docker
    from docker.errors import DockerException

    try:
        version = docker.from_env(timeout=5).version()["Version"]
    except (DockerException, OSError) as error:
        hint = "only images of the engine `docker` need it; start it, or set DOCKER_HOST"
        return _warning("docker", f"no engine answers: {str(error).splitlines()[0]}", hint)
    return _fine("docker", f"engine {version}")


def _refreshes(layout: Layout) -> Iterator[Finding]:
    try:
        status = read_status(layout)
    except LockstockError as error:
        yield _failed("snapshots", str(error), "`mirror verify` sets damaged ones aside")
        return
    run = status.last_run
    if run is None:
        return
    if run.exit_code:
        yield _warning("refresh", f"the last one failed: {run.reason}", "run `mirror refresh` and see")
    elif time.time() - run.ended > _OLD:
        hours = (time.time() - run.ended) / 3600
        hint = "`mirror schedule` writes a timer for every night"
        yield _warning("refresh", f"the last one ended {hours:.0f} hours ago", hint)
    else:
        yield _fine("refresh", "the last one went well")


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Give those that keep the mirror from working."""
    return [finding for finding in findings if finding.grade is Grade.FAILED]


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _fine(topic: str, message: str) -> Finding:
    return Finding(topic=topic, grade=Grade.OK, message=message)


def _warning(topic: str, message: str, hint: str) -> Finding:
    return Finding(topic=topic, grade=Grade.WARNING, message=message, hint=hint)


def _failed(topic: str, message: str, hint: str) -> Finding:
    return Finding(topic=topic, grade=Grade.FAILED, message=message, hint=hint)
