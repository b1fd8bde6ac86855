"""Byte-compiled modules, made by the base's own Python in a box without a network; equal each time."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

from imagegen.archive import Entry
from imagegen.context import guest_program
from imagegen.errors import BuildError, UnsupportedError
from imagegen.guest.compile_stream import number
from imagegen.live import Progress
from imagegen.oci import EPOCH
from mirror.store import disk_errors

# Sets are ordered by hash, and what is compiled must not depend on chance.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin"}
_NOBODY = "65534:65534"
_PARTS = ("bin", "lib", "lib64", "usr")
_LIMIT = 1800
# Nobody in particular is to run what is unpacked.
_UMASK = 0o022


class Compiler:
    """Compiles with the Python of one base, whose root is unpacked below `folder` once."""

    def __init__(self, tarball: Path, digest: str, python: str, folder: Path, progress: Progress) -> None:
        self._tarball = tarball
        self._root = folder / digest.removeprefix("sha256:")
        self._python = f"/usr/bin/python{python}"
        self._tag = f"cpython-{python.replace('.', '')}"
        self._progress = progress

    def compiled(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Give the .pyc beside each module; sources that are no Python of this version have none.

        Raises UnsupportedError where the base's Python cannot be run, BuildError where it fails.
        """
        sources = sorted((e for e in entries if e.path.endswith(".py")), key=lambda entry: entry.path)
        if not sources:
            return
        given = b"".join(_field(f"/{e.path}".encode()) + _field(_bytes(e)) for e in sources)
        program = guest_program("compile_stream.py").decode()
        ended = subprocess.run(
            [*self._box, self._python, "-sSB", "-W", "ignore", "-c", program, str(EPOCH)],
            input=given,
            capture_output=True,
            env=_ENVIRONMENT,
            timeout=_LIMIT,
            check=False,
        )
        if ended.returncode:
            raise BuildError(
                f"the base's Python does not compile: {ended.stderr.decode(errors='replace').strip()[-300:]}",
                where=sources[0].path,
                hint="set `compile = false` for the image to leave it to whoever imports a module first",
            )
        for source, pyc in zip(sources, _fields(ended.stdout), strict=True):
            if pyc:
                path = PurePosixPath(source.path)
                cached = path.parent / "__pycache__" / f"{path.stem}.{self._tag}.pyc"
                yield Entry(path=str(cached), content=pyc)

    def prepare(self) -> None:
        """Unpack the base and find a way to run its Python. Raises UnsupportedError."""
        if not self._root.is_dir():
            self._progress.step("unpacking the base (once)")
            self._unpack()
        _ = self._box

    @cached_property
    def _box(self) -> list[str]:
        for words in self._boxes():
            tried = subprocess.run(
                [*words, self._python, "-c", ""], capture_output=True, env=_ENVIRONMENT, check=False
            )
            if tried.returncode == 0:
                return words
        raise UnsupportedError(
            "the base's Python cannot be run to compile modules",
            where=str(self._root),
            hint="install bubblewrap (apt-get install bubblewrap), set `compile = false` for the image, or "
            "use --engine docker",
        )

    def _boxes(self) -> Iterator[list[str]]:
        bwrap, chroot = shutil.which("bwrap"), shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
        if bwrap:
            links = [f"--symlink usr/{name} /{name}".split() for name in ("bin", "lib", "lib64")]
            words = ["--unshare-all", "--die-with-parent", "--ro-bind", str(self._root / "usr"), "/usr"]
            yield [
                bwrap,
                *words,
                *(word for link in links for word in link),
                "--proc",
                "/proc",
                "--dev",
                "/dev",
            ]
        if chroot and os.geteuid() == 0:
            yield [chroot, f"--userspec={_NOBODY}", str(self._root)]

    def _unpack(self) -> None:
        """Unpack the programs of the base under a name that nobody looks at, and rename it.

        One run does so at a time; the others find it done.
        """
        prefix = f".{self._root.name[:16]}."
        with disk_errors(self._root.parent), _alone(self._root):
            if self._root.exists():
                return
            for leftover in self._root.parent.glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=prefix, dir=self._root.parent))
            fresh.chmod(0o755)
            words = ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", str(fresh)]
            parts = [f"./{part}" for part in _PARTS]
            ended = subprocess.run(
                [*words, "-f", str(self._tarball), *parts],
                capture_output=True,
                check=False,
                text=True,
                umask=_UMASK,
            )
            if not (fresh / self._python.lstrip("/")).exists():
                raise BuildError(f"the base cannot be unpacked: {ended.stderr[-300:]}", where=str(fresh))
            fresh.rename(self._root)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bytes(entry: Entry) -> bytes:
    return entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()


def _field(data: bytes) -> bytes:
    return number(len(data)) + data


def _fields(data: bytes) -> Sequence[bytes]:
    found, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        found.append(data[start + 4 : end])
        start = end
    return found
