"""Snapshots in devpi: one index per snapshot, and a stable index that shows one of them.

All use of devpi-server's internal API, that of the minor version which pyproject.toml pins, is
here, in devpi_stage and in devpi_process. An index is filled in one transaction of devpi's storage,
by hard links to the store, while a server may run on it; clients see it when the stable index, in a
second transaction, gets it as its only base. devpi_server is imported only to write, for that takes
longer than all the rest.

A writer may be killed anywhere. A transaction that was cut off is rolled back by SQLite or, when
only its files were not yet in place, completed by devpi at the next opening; the promotion comes
after all that; and what remains of the killed writer's files is swept by the next one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lockfiles.model import Ecosystem
from mirror.errors import DiskFullError, RegistryError, StoreError
from mirror.publish import devpi_process
from mirror.publish.devpi_stage import fill, has_file
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store, disk_errors, sync_file_system, sync_folder, write_atomically

USER = "lockstock"
STABLE = "current"
# Nobody uploads to these indexes, not even test results, which devpi takes from anyone by default.
CLOSED = {"type": "stage", "volatile": False, "acl_upload": [], "acl_toxresult_upload": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What publishing did. `index` is the snapshot's own index; `changed` whether clients see a change."""

    index: str
    files: int
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What the registry holds, noted beside its database from the end of one write to the next one."""

    published: str | None
    in_house: tuple[str, ...]
    indexes: tuple[str, ...]


def publish(
    folder: Path,
    name: str,
    snapshot: Snapshot,
    store: Store,
    in_house: tuple[str, ...] = (),
) -> Published:
    """Show the Python packages of the snapshot `name`, and only these, in the stable index.

    `folder` is the registry's, MIRROR/devpi; it is made where it is missing. `in_house` are indexes of
    people, as USER/INDEX, that the stable index shows behind the snapshot's. The caller holds the mirror:
    there is one writer at a time. Publishing what is published does nothing. Raises RegistryError, and
    DiskFullError; clients see the previous snapshot then.
    """
    init(folder)
    index = index_of(name)
    files = snapshot.of_ecosystem(Ecosystem.PYPI)
    state = _remembered(folder)
    if state and (state.published, state.in_house) == (index, in_house):
        return Published(index=index, files=len(files), changed=False)
    _check(files, store)
    with writing(folder) as xom:
        complete = _is_complete(xom, index, files)
        if not complete:
            with xom.keyfs.write_transaction():  # one, for clients may read the index that is mended
                _delete(xom, index)
                fill(xom.model.get_user(USER).create_stage(index, bases=(), **CLOSED), files, store)
                sync_file_system(folder)  # for the database will say that the links are there
        changed = _promote(xom, index, in_house) or not complete
    return Published(index=index, files=len(files), changed=changed)


def prune(folder: Path, keep: Collection[str]) -> tuple[str, ...]:
    """Remove the indexes of all snapshots but those named and the published one; give the removed.

    A client that read the stable index before a promotion still fetches from the snapshot's index
    before it, so keep that one, too. Raises RegistryError.
    """
    init(folder)
    kept = {index_of(name) for name in keep}
    state = _remembered(folder)
    if state and not _stale(state, kept):
        return ()
    with writing(folder) as xom:
        removed = _stale(_current(xom), kept)
        for index in removed:
            with xom.keyfs.write_transaction():
                _delete(xom, index)
    return removed


def forget(folder: Path) -> None:
    """Let the next publishing look what is there, and mend it."""
    _memory(folder).unlink(missing_ok=True)


def load() -> None:
    """Import what writing needs, for a caller that has the time now."""
    import devpi_server.config
    import devpi_server.main  # noqa: F401  both are used by their names elsewhere


def init(folder: Path) -> None:
    """Make an empty registry in `folder` if there is none: its secrets, users and stable index."""
    server = server_folder(folder)
    if server.is_dir() and (folder / "secret").is_file():
        return
    with _failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # devpi refuses a secret in a folder that others may write to
        with locked(folder):
            _keep_private(folder / "secret", secrets.token_bytes(32))
            _keep_private(folder / "root-password", secrets.token_urlsafe(32).encode())
            if not server.is_dir():
                fresh = folder / "server.new"
                shutil.rmtree(fresh, ignore_errors=True)
                _create(folder, fresh)
                fresh.rename(server)
                sync_folder(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from writing and from starting a server, whose opening would meddle with a write."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _recover(server_folder(folder) / ".sqlite")
        yield


def _recover(database: Path) -> None:
    """Let SQLite roll back what was cut off: devpi reads first, and by a connection that may not write."""
    if database.is_file():
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:  # devpi tells it, too
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()


def server_folder(folder: Path) -> Path:
    """Give the folder of devpi's own state."""
    return folder / "server"


def identity(folder: Path) -> str:
    """Give the identifier by which this registry's server names itself in its answers."""
    return str(json.loads((server_folder(folder) / ".nodeinfo").read_bytes())["uuid"])


def options(folder: Path, server: Path | None = None) -> list[str]:
    """Give devpi-server's options for this registry, for a server and for writing alike.

    An empty configuration file keeps the one of the user or the host out. Replicas are let in by the
    secret alone. Hard links come from the store, which already holds equal files once; devpi's own
    pool of hashes would keep them alive.
    """
    return [
        f"--configfile={os.devnull}", f"--serverdir={server or server_folder(folder)}", "--role=primary",
        "--storage=sqlite:fsbackend=fs", f"--secretfile={folder / 'secret'}", "--restrict-modify=root",
        "--offline-mode", "--argon2-memory-cost=1024", "--argon2-parallelism=1", "--argon2-time-cost=1",
    ]  # fmt: skip


def _keep_private(path: Path, content: bytes) -> None:
    """Write a secret that only the owner may read, unless there is one."""
    if path.is_file():
        return
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600, exist_ok=False)
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def _create(folder: Path, server: Path) -> None:
    """Initialise devpi's state, without its index of the public one."""
    from devpi_server.main import init_default_indexes, set_state_version

    config = _config(folder, server)
    config.args.no_root_pypi = True
    config.args.root_passwd_hash = _hash((folder / "root-password").read_text())
    set_state_version(config)
    xom = _open(config, init=True)
    init_default_indexes(xom)
    with xom.keyfs.write_transaction():
        owner = xom.model.create_user(USER, None)  # no password: nobody logs in as this user
        owner.create_stage(STABLE, bases=(), **CLOSED)


def _hash(password: str) -> str:
    """Hash a password of 32 random bytes, which nobody guesses however fast it is hashed."""
    from devpi_server.auth import pwd_context

    cheap = {"argon2__memory_cost": 8, "argon2__time_cost": 1, "argon2__parallelism": 1}
    return str(pwd_context.copy(**cheap).hash(password))


def _config(folder: Path, server: Path | None = None) -> Any:
    from devpi_server.config import parseoptions

    return parseoptions(devpi_process.plugins(), ["devpi-server", *options(folder, server)])


def _open(config: Any, *, init: bool = False) -> Any:
    """Open the storage, which completes a transaction that was cut off."""
    from devpi_server.main import xom_from_config

    return xom_from_config(config, init)  # type: ignore[no-untyped-call]  # untyped there


@contextmanager
def writing(folder: Path) -> Iterator[Any]:
    """Open the registry for writing, note its state afterwards, and sweep before and after.

    The caller holds the mirror. Raises RegistryError, DiskFullError.
    """
    memory = _memory(folder)
    with _failures(folder), locked(folder):
        memory.unlink(missing_ok=True)
        xom = _open(_config(folder))
        _sweep(folder, _current(xom).indexes)
        yield xom
        state = _current(xom)
        _sweep(folder, state.indexes)
        write_atomically(memory, json.dumps(asdict(state)).encode())


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Turn what devpi and SQLite raise into errors of ours, and keep devpi's log lines off stderr."""
    log, silence = logging.getLogger(), logging.NullHandler()
    log.addHandler(silence)
    try:
        with disk_errors(folder):
            yield
    except (Exception, SystemExit) as error:
        known = isinstance(error, (OSError, sqlite3.Error, SystemExit))
        if not known and not type(error).__module__.startswith("devpi_"):
            raise
        if isinstance(error, sqlite3.OperationalError) and "is full" in str(error):
            raise DiskFullError("no space is left on the disk", where=str(folder)) from error
        raise RegistryError(
            f"devpi's storage cannot be used: {error.__cause__ or error}",
            where=str(folder),
            hint="run it again; if that fails, too, move this folder away: a refresh fills a new one",
        ) from error
    finally:
        log.removeHandler(silence)


def _memory(folder: Path) -> Path:
    # within devpi's own folder, so that both are moved, restored and removed together
    return server_folder(folder) / ".lockstock"


def _remembered(folder: Path) -> _State | None:
    """Give the state after the last write, or None when a write did not end."""
    try:
        content = json.loads(_memory(folder).read_bytes())
        return _State(
            published=content["published"],
            in_house=tuple(content["in_house"]),
            indexes=tuple(content["indexes"]),
        )
    except (OSError, ValueError, KeyError):
        return None


def _current(xom: Any) -> _State:
    with xom.keyfs.read_transaction():
        indexes = xom.model.get_user(USER).get()["indexes"]
        bases = tuple(indexes[STABLE]["bases"])
    published = bases[0].removeprefix(f"{USER}/") if bases else None
    return _State(published=published, in_house=bases[1:], indexes=tuple(sorted(set(indexes) - {STABLE})))


def index_of(name: str) -> str:
    """Give the index of a snapshot."""
    return f"s-{name}"


def _stale(state: _State, kept: Collection[str]) -> tuple[str, ...]:
    return tuple(index for index in state.indexes if index not in kept and index != state.published)


def _check(files: Iterable[Stocked], store: Store) -> None:
    """Refuse what an index cannot hold or the store does not. Raises RegistryError, StoreError."""
    seen: dict[str, Stocked] = {}
    for file in files:
        if seen.setdefault(file.filename, file).sha256 != file.sha256:
            raise RegistryError(
                "the locks name two different files of this name, and an index serves one",
                where=file.filename,
                hint="lock the same file everywhere, or stock these locks in two mirrors",
            )
        if not store.holds(file.sha256):
            raise StoreError(
                "the store does not hold this file", where=file.filename, hint="run `mirror refresh`"
            )


def _is_complete(xom: Any, index: str, files: Iterable[Stocked]) -> bool:
    """Say whether the index exists with all its files; its database entries are there or not as a whole."""
    with xom.keyfs.read_transaction():
        stage = xom.model.getstage(USER, index)
        return stage is not None and all(has_file(stage, file) for file in files)


def _promote(xom: Any, index: str, in_house: tuple[str, ...]) -> bool:
    """Make the stable index show these alone, at once for every reader; say if it did not before."""
    state = _current(xom)
    if (state.published, state.in_house) == (index, in_house):
        return False
    with xom.keyfs.write_transaction():
        for place in in_house:
            _check_in_house(xom.model.getstage(place), place)
        xom.model.getstage(USER, STABLE).modify(bases=(f"{USER}/{index}", *in_house))
    return True


def _check_in_house(stage: Any, place: str) -> None:
    """Refuse what is no index, or one that fetches from elsewhere. Raises RegistryError."""
    if stage is None or stage.ixconfig["type"] != "stage":
        raise RegistryError(
            "devpi has no such index that people upload to",
            where=place,
            hint="make it, or take it out of `in_house` under [mirror] in lockstock.toml",
        )


def _delete(xom: Any, index: str) -> None:
    """Take an index away, within the caller's transaction."""
    stage = xom.model.getstage(USER, index)
    if stage is not None:
        stage.delete()


def _sweep(folder: Path, indexes: Collection[str]) -> None:
    """Remove the files that killed writers and removed indexes left behind; the user is ours alone."""
    server = server_folder(folder)
    for index in (server / "+files" / USER).glob("*"):
        if index.name not in indexes:
            shutil.rmtree(index)
    for leftover in (*(server / "+files" / USER).rglob("*-tmp"), *server.glob(".*.tmp")):
        leftover.unlink()
