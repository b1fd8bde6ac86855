"""The folder that devpi works in: made, opened for writing, recovered, and swept.

All use of devpi-server's internal API, that of the minor version which pyproject.toml pins, is here,
in mirror.publish.devpi, in devpi_stage and in devpi_process. devpi_server is imported only to write,
for that takes longer than all the rest.

A writer may be killed anywhere. A transaction that was cut off is rolled back by SQLite or, when
only its files were not yet in place, completed by devpi at the next opening; and what remains of the
killed writer's files is swept by the next one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import sqlite3
import stat
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirror.errors import DiskFullError, RegistryError
from mirror.publish import devpi_process
from mirror.store import disk_errors, sync_folder, write_atomically

USER = "lockstock"
STABLE = "current"
_SECRETS = ("secret", "root-password")
# Nobody uploads to these indexes, not even test results, which devpi takes from anyone by default.
CLOSED = {"type": "stage", "volatile": False, "acl_upload": [], "acl_toxresult_upload": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the registry holds, noted beside its database from the end of one write to the next one."""

    published: str | None
    in_house: tuple[str, ...]
    indexes: tuple[str, ...]


def load() -> None:
    """Import what writing needs, for a caller that has the time now."""
    import devpi_server.config
    import devpi_server.main  # noqa: F401  both are used by their names elsewhere


def init(folder: Path) -> None:
    """Make an empty registry in `folder` if there is none: its secrets, users and stable index.

    Secrets that were opened to others since are closed again.
    """
    server = server_folder(folder)
    with _failures(folder):
        if server.is_dir() and (folder / "secret").is_file():
            _close(folder)
            return
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
        recover(folder)
        yield


def is_being_written(folder: Path) -> bool:
    """Say whether a transaction of devpi's database is open, or was when its writer was killed."""
    return server_folder(folder).joinpath(".sqlite-journal").exists()


def recover(folder: Path, patience: float = 5.0) -> None:
    """Let SQLite roll back what was cut off: devpi reads first, and by a connection that may not write.

    SQLite leaves a living writer alone, and waits `patience` seconds for others; devpi tells its errors, too.
    """
    database = server_folder(folder) / ".sqlite"
    if database.is_file():
        with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=patience)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchall()


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


def _close(folder: Path) -> None:
    """Take back what a `chmod -R` of the mirror, for a file server, let others do: devpi refuses that."""
    others = stat.S_IRWXG | stat.S_IRWXO
    denied = {folder: stat.S_IWGRP | stat.S_IWOTH, **{folder / name: others for name in _SECRETS}}
    for path, bits in denied.items():
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & bits:
            path.chmod(mode & ~bits)


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
        _sweep(folder, current(xom).indexes)
        yield xom
        state = current(xom)
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


def remembered(folder: Path) -> State | None:
    """Give the state after the last write, or None when a write did not end."""
    try:
        content = json.loads(_memory(folder).read_bytes())
        return State(
            published=content["published"],
            in_house=tuple(content["in_house"]),
            indexes=tuple(content["indexes"]),
        )
    except (OSError, ValueError, KeyError):
        return None


def forget(folder: Path) -> None:
    """Let the next publishing look what is there, and mend it."""
    _memory(folder).unlink(missing_ok=True)


def _memory(folder: Path) -> Path:
    # within devpi's own folder, so that both are moved, restored and removed together
    return server_folder(folder) / ".lockstock"


def current(xom: Any) -> State:
    """Look what the registry holds."""
    with xom.keyfs.read_transaction():
        indexes = xom.model.get_user(USER).get()["indexes"]
        bases = tuple(indexes[STABLE]["bases"])
    published = bases[0].removeprefix(f"{USER}/") if bases else None
    return State(published=published, in_house=bases[1:], indexes=tuple(sorted(set(indexes) - {STABLE})))


def _sweep(folder: Path, indexes: Collection[str]) -> None:
    """Remove the files that killed writers and removed indexes left behind; the user is ours alone."""
    server = server_folder(folder)
    for index in (server / "+files" / USER).glob("*"):
        if index.name not in indexes:
            shutil.rmtree(index)
    for leftover in (*(server / "+files" / USER).rglob("*-tmp"), *server.glob(".*.tmp")):
        leftover.unlink()
