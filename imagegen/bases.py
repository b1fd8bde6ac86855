"""Debian bases: bootstrapped by mmdebstrap, equal bytes for equal packages, kept in the mirror.

A base lies in `bases/` as `SUITE-KEY-SHA256.tar`. The key stands for everything that was asked
for, the sha256 is that of the file; so the one rename that publishes a base also says what it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imagegen import debs, debslock
from imagegen.apt import Source, for_suite, read_host
from imagegen.aptroot import native_architecture
from imagegen.debslock import LockedBase
from imagegen.errors import BaseError
from imagegen.live import Progress
from imagegen.spec import DebianBase
from lockfiles.errors import ConfigError
from lockfiles.urls import without_credentials
from mirror.config import Config
from mirror.store import Store, disk_errors, sync_folder

# What a sandbox needs besides its packages: an editor, an init that reaps, and time zones.
PACKAGES = ("ca-certificates", "git", "nano", "python3", "python3-venv", "tini", "tzdata")
# The first moment that zip files can tell: packages are built from what lies in the base.
EPOCH = 315532800
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_INCLUDED = ("/usr/share/doc/*/copyright",)
# Names of the host, and archives that no sandbox reaches and whose addresses may hold credentials.
_OF_THE_HOST = ("etc/hostname", "etc/resolv.conf", "etc/apt/sources.list", "etc/apt/sources.list.d/*")
_CHANGING = ("etc/machine-id", "var/cache/debconf/*-old", "var/log/*log", "var/log/[bw]tmp")
_TAIL = 12
_ROOM = 1 << 20  # bytes; with less, it is the disk that has ended a run
_PAUSE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tarball:
    """A base's root file system as a tar file and the sha256 of that file."""

    path: Path
    sha256: str


def command(suite: str, packages: Iterable[str]) -> list[str]:
    """Give the command that writes a base to stdout, its apt sources coming from stdin."""
    options = [
        "--variant=minbase",
        "--mode=auto",
        f"--include={','.join(sorted(packages))}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        *(f"--dpkgopt=path-include={pattern}" for pattern in _INCLUDED),
        *(f'--customize-hook=rm -rf "$1"/{pattern}' for pattern in (*_OF_THE_HOST, *_CHANGING)),
    ]
    return ["mmdebstrap", *options, suite, "-"]


def wanted(base: DebianBase) -> tuple[str, ...]:
    """Name the packages that a base is asked to have, sorted."""
    return tuple(sorted({*PACKAGES, *base.packages}))


def make(base: DebianBase, folder: Path, progress: Progress) -> Tarball:
    """Give the base from `folder`, bootstrapping it where it is not there yet.

    Raises BaseError and DiskFullError.
    """
    sources = for_suite(read_host(), base.suite)
    words = command(base.suite, wanted(base))
    stanzas = [source.stanza() for source in sources]
    order = _Order(base=base, words=tuple(words), stem=stem_of(base, None), hint=_hint(base.suite, sources))

    return _made(order, folder, progress, lambda: nullcontext("\n".join(stanzas)))


def make_locked(
    base: DebianBase, locked: LockedBase, store: Store, folder: Path, progress: Progress
) -> Tarball:
    """Give the base that has exactly the locked packages, made without a network once they are stocked.

    Raises BaseError and DiskFullError.
    """
    words = command(base.suite, (deb.name for deb in locked.debs))
    order = _Order(
        base=base,
        words=tuple(words),
        stem=stem_of(base, locked),
        hint="the locked packages do not install: run `imagegen lock-base` to choose them again",
    )

    @contextmanager
    def sources() -> Iterator[str]:
        debs.bring(locked, store, progress)
        with debs.archive(locked, store) as root:
            # Every package there has the digest of the lock, which came from signed indexes.
            yield f"deb [trusted=yes] copy://{root} {base.suite} main"

    return _made(order, folder, progress, sources)


def debs_store(config: Config) -> Store:
    """Give the store of a mirror's Debian packages."""
    return Store(config.root / debs.FOLDER)


def locked_base(config: Config, base: DebianBase) -> LockedBase | None:
    """Give what debs.lock says of a base; without the file there is nothing to say. Raises ConfigError."""
    lock = debs.read_lock(config.file.parent)
    if lock is None:
        return None
    architecture = native_architecture()
    found = lock.find(base.suite, architecture, wanted(base))
    if found is None:
        raise ConfigError(
            f"it has no {base} for {architecture} with exactly {', '.join(wanted(base))}",
            where=str(config.file.parent / debslock.NAME),
            hint="run `imagegen lock-base`, which adds it; without the file, the archive of today is used",
        )
    return found


def stem_of(base: DebianBase, locked: LockedBase | None) -> str:
    """Give how the names of a base's files begin, the sha256 being what follows."""
    if locked is None:
        sources = [source.stanza() for source in for_suite(read_host(), base.suite)]
        return _stem(base, command(base.suite, wanted(base)), sources)
    return _stem(
        base, command(base.suite, (deb.name for deb in locked.debs)), [deb.sha256 for deb in locked.debs]
    )


def _stem(base: DebianBase, words: Sequence[str], origin: Sequence[str]) -> str:
    """Name everything that decides the content of a base, in 12 hexadecimal digits after the suite."""
    content = json.dumps([words, EPOCH, origin])
    return f"{base.suite}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One bootstrap: of what, by which command, the name it is kept under, and advice if it fails."""

    base: DebianBase
    words: tuple[str, ...]
    stem: str
    hint: str


def _made(
    order: _Order, folder: Path, progress: Progress, sources: Callable[[], AbstractContextManager[str]]
) -> Tarball:
    with alone(folder) as lock:
        held = next(folder.glob(f"{order.stem}-*.tar"), None)
        if held is None:
            with sources() as text:
                progress.step(f"making the base {order.base} with mmdebstrap (once, some 20 s)")
                held = _bootstrap(order, folder, text, lock, progress)
    return Tarball(path=held, sha256=held.stem.removeprefix(f"{order.stem}-"))


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the folder, so that two runs do not make one base twice, and sweep what a killed run left."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in folder.glob("*.tmp"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            yield lock.fileno()


def _bootstrap(order: _Order, folder: Path, sources: str, lock: int, progress: Progress) -> Path:
    with (
        tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file,
        tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp") as log,
    ):
        try:
            _run(order, sources, file, log, lock, progress)
            sha256 = _sha256(Path(file.name))
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o444)
            target = folder / f"{order.stem}-{sha256}.tar"
            Path(file.name).rename(target)
        finally:
            Path(file.name).unlink(missing_ok=True)
    sync_folder(folder)
    return target


def _run(order: _Order, sources: str, out: IO[bytes], log: IO[bytes], lock: int, progress: Progress) -> None:
    """Run mmdebstrap in such a way that it unmounts and tidies up, also when we are killed.

    It is sent a signal then, its log is a file, because a broken pipe would end it at once, and it
    holds our lock until it is done. Where it cannot write, as on a full disk, it ends its whole process
    group: so it has one of its own, without us and who called us.
    """
    _check_tools()
    words = ["setpriv", "--pdeathsig", "TERM", "--", *order.words]
    if sources:
        words.append("-")
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=log,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"},
        pass_fds=[lock],
        process_group=0,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        with suppress(BrokenPipeError):  # where it has ended already, its log says why
            process.stdin.write(sources.encode())
            process.stdin.close()
        last = _follow(process, Path(log.name), progress)
    if process.returncode:
        _raise_if_full(Path(log.name).parent)
        raise BaseError(f"mmdebstrap failed: {_reason(last)}", where=str(order.base), hint=order.hint)


def _raise_if_full(folder: Path) -> None:
    """Look at the disk itself, for its log may have found no room on it to say so."""
    if shutil.disk_usage(folder).free < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _follow(process: subprocess.Popen[bytes], log: Path, progress: Progress) -> list[str]:
    """Show what a log says until the process ends, and give the last lines."""
    last: deque[str] = deque(maxlen=_TAIL)
    with log.open(encoding="utf-8", errors="replace", newline="") as said:
        running, rest = True, ""
        while running:
            running = process.poll() is None
            # Half a line may be half a password, by which it is not known as one.
            *lines, rest = re.split(r"[\r\n]+", rest + said.read())
            for text in lines if running else [*lines, rest]:
                if text.strip():
                    last.append(without_credentials(text.strip()))
                    progress.detail(last[-1].removeprefix("I: "))
            time.sleep(_PAUSE if running else 0)
    return list(last)


def _reason(lines: Sequence[str]) -> str:
    """Choose the line that says most: apt's own error comes before mmdebstrap's."""
    errors = [line for line in lines if line.startswith("E: ")]
    return (errors or list(lines) or ["it said nothing"])[0].removeprefix("E: ")


def _hint(suite: str, sources: Sequence[Source]) -> str:
    if sources:
        return "check the suite, the names under apt, and that `apt-get update` works on this host"
    return (
        f"this host's apt sources do not have {suite}, so mmdebstrap's own were asked: check the "
        "suite and the names under apt; the keys come from `apt-get install debian-archive-keyring`"
    )


def _check_tools() -> None:
    if not shutil.which("mmdebstrap"):
        raise BaseError(
            "mmdebstrap is not installed, and it makes debian: bases",
            hint="apt-get install --no-install-recommends mmdebstrap  (as root), or use a docker: base",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
