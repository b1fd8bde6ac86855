"""Stocked Debian packages: fetched once, kept by their SHA-256, laid out as an archive for one bootstrap."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from imagegen import aptroot, debslock
from imagegen.apt import Source, for_suite, read_host
from imagegen.aptroot import AptRoot, private_root
from imagegen.debslock import Deb, DebsLock, LockedBase
from imagegen.errors import BaseError
from imagegen.live import Progress
from lockfiles.model import Digest
from mirror.console import human_size, plural
from mirror.store import Expected, Store, disk_errors

FOLDER = "debs"
_COMPONENT = "main"
_CHUNK = 1 << 20


def read_lock(folder: Path) -> DebsLock | None:
    """Read debs.lock from a project's folder, if it is there. Raises BaseError."""
    file = folder / debslock.NAME
    try:
        return debslock.parse(str(file), file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"cannot be read: {error}", where=str(file)) from error


def resolve(suite: str, packages: Sequence[str], store: Store, progress: Progress) -> LockedBase:
    """Choose the packages of a base with apt, as of now, and stock them. Raises BaseError."""
    where, architecture = f"debian:{suite}", aptroot.native_architecture()
    with private_root(_sources(suite), architecture, where) as root:
        progress.step(f"locking {where} with {', '.join(packages)}")
        root.update()
        debs = root.resolve(packages)
        _fetch([deb for deb in debs if not store.holds(deb.sha256)], root, store, progress)
    wanted = tuple(sorted(set(packages)))
    return LockedBase(suite=suite, architecture=architecture, packages=wanted, debs=debs)


def bring(base: LockedBase, store: Store, progress: Progress) -> None:
    """Stock what the mirror lacks of a locked base. Raises BaseError where the archive has it no more."""
    missing = [deb for deb in base.debs if not store.holds(deb.sha256)]
    if not missing:
        return
    where = f"debian:{base.suite}"
    try:
        with private_root(_sources(base.suite), base.architecture, where) as root:
            root.update()
            _fetch(missing, root, store, progress)
    except BaseError as error:
        raise BaseError(
            f"the mirror lacks {plural(len(missing), 'package')} of {debslock.NAME}, "
            f"{missing[0].file} first, and {error.reason}",
            where=where,
            hint=f"an archive keeps no old versions: copy {store.root} from where the lock was made, or run "
            "`imagegen lock-base` for the versions of today",
        ) from error


@contextmanager
def archive(base: LockedBase, store: Store) -> Iterator[Path]:
    """Lay the packages of a base out as an archive that apt reads, for the time of the block.

    All are hashed again, so that what lies there may be trusted. Raises BaseError.
    """
    aptroot.check_tools()
    with disk_errors(store.root), tempfile.TemporaryDirectory(prefix="lockstock-debs-") as name:
        root = Path(name)
        lists = root / "dists" / base.suite / _COMPONENT / f"binary-{base.architecture}"
        lists.mkdir(parents=True)
        (root / "pool").mkdir()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            stanzas = list(pool.map(lambda deb: _place(deb, store, root / "pool"), base.debs))
        packages = "\n".join(stanzas).encode()
        (lists / "Packages").write_bytes(packages)
        (root / "dists" / base.suite / "Release").write_text(_release(base, packages))
        # Who unpacks in a user namespace reads it as somebody else.
        for folder, _, files in os.walk(root):
            Path(folder).chmod(0o755)
            for file in files:
                _readable(Path(folder, file))
        yield root


def _sources(suite: str) -> tuple[Source, ...]:
    sources = for_suite(read_host(), suite)
    if not sources:
        raise BaseError(
            f"this host's apt sources do not have {suite}",
            where=f"debian:{suite}",
            hint="add the suite to /etc/apt/sources.list.d, with its key under Signed-By",
        )
    return sources


def _fetch(missing: Sequence[Deb], root: AptRoot, store: Store, progress: Progress) -> None:
    if not missing:
        return
    size = human_size(sum(deb.size for deb in missing))
    progress.step(f"fetching {plural(len(missing), 'Debian package')}, {size}")
    with tempfile.TemporaryDirectory(prefix="lockstock-apt-") as name:
        folder = Path(name)
        # apt fetches as a user of its own, or as us where that one may not write here.
        folder.chmod(0o755)
        root.download(missing, folder)
        for deb in missing:
            _stock(deb, folder / deb.file, store)


def _stock(deb: Deb, file: Path, store: Store) -> None:
    """Take a file into the store; apt has checked it against its index, and this against the lock."""
    if not file.is_file():
        raise BaseError("apt did not fetch it", where=deb.file)
    expected = Expected(label=deb.file, digests=(Digest("sha256", deb.sha256),), size=deb.size)
    with store.receive(expected) as incoming, file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            incoming.write(chunk)
        store.keep(incoming)


def _place(deb: Deb, store: Store, pool: Path) -> str:
    """Put a package into the archive's pool and give its stanza for the list."""
    held, target = store.path(deb.sha256), pool / deb.file
    try:
        os.link(held, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(held, target)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != deb.sha256:
            raise BaseError(
                "it is damaged in the mirror",
                where=deb.file,
                hint=f"delete {held} and run again: it is fetched anew",
            )
    control = subprocess.run(
        ["dpkg-deb", "--field", str(target)], capture_output=True, text=True, check=False
    )
    if control.returncode:
        raise BaseError(f"dpkg cannot read it: {control.stderr.strip()[-200:]}", where=deb.file)
    facts = f"Filename: pool/{deb.file}\nSize: {deb.size}\nSHA256: {deb.sha256}\n"
    return control.stdout.rstrip("\n") + "\n" + facts


def _release(base: LockedBase, packages: bytes) -> str:
    digest = hashlib.sha256(packages).hexdigest()
    path = f"{_COMPONENT}/binary-{base.architecture}/Packages"
    return (
        f"Suite: {base.suite}\nCodename: {base.suite}\nArchitectures: {base.architecture}\n"
        f"Components: {_COMPONENT}\nSHA256:\n {digest} {len(packages)} {path}\n"
    )


def _readable(file: Path) -> None:
    if not file.stat().st_mode & 0o004:
        file.chmod(0o644)


def stocked(bases: Iterable[LockedBase]) -> set[str]:
    """Give the sha256 of all packages of these bases."""
    return {deb.sha256 for base in bases for deb in base.debs}
