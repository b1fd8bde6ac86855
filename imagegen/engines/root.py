"""A base's own programs, unpacked once, and a box of namespaces without a network to run them in."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagegen.engines.untar import UMASK, untar
from imagegen.errors import BuildError, UnsupportedError
from imagegen.live import Progress
from imagegen.oci import EPOCH
from imagegen.plan import UID
from mirror.store import disk_errors

_PARTS = ("bin", "etc", "lib", "lib64", "sbin", "usr")
# What is bound into boxes: bubblewrap would follow a link on this host.
_BOUND = ("etc", "usr")
_LINKS = ("bin", "lib", "lib64", "sbin")
# Part of a root's name: raise it when more or other parts are unpacked.
_FORM = "3"
_LIMIT = 1800
_TIMED_OUT = 124
_KEPT = 256 * 1024
# What is made must depend neither on chance nor on who makes it, where and when.
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 - a file system of the box's own
    "USER": "sandbox",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": str(EPOCH),
}


class BaseRoot:
    """The programs of one base, which lie below `folder` once they were needed."""

    def __init__(self, tarball: Path, digest: str, folder: Path, progress: Progress) -> None:
        self._tarball = tarball
        self._progress = progress
        # whole, for commands that are run in other folders
        self.path = folder.absolute() / f"{digest.removeprefix('sha256:')}-{_FORM}"

    def prepare(self, program: str) -> None:
        """Unpack the base unless it is there; `program` must be in it. Raises BuildError."""
        if not self.path.is_dir():
            self._progress.step("unpacking the base (once)")
            self._unpack(program)

    def mounts(self) -> list[str]:
        """Give what bubblewrap is told of the root, which cannot be changed from inside."""
        words = ["--ro-bind", str(self.path / "usr"), "/usr"]
        for name in _LINKS:
            words += ["--symlink", f"usr/{name}", f"/{name}"]
        return words

    def run(
        self,
        command: Sequence[str],
        folders: Mapping[str, Path],
        files: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the base without a network, its stdout and stderr as one.

        `folders` of the host may be written at their places inside, and `files` only read; all else
        is gone at the end. It starts in the first of the folders. Raises UnsupportedError where no
        such box can be made.
        """
        words = [self._program(), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
        words += ["--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox", "--clearenv"]
        words += [*self.mounts(), "--ro-bind", str(self.path / "etc"), "/etc"]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - inside the box
        for inside, path in folders.items():
            words += ["--bind", str(path), inside]
        for inside, path in (files or {}).items():
            words += ["--ro-bind", str(path), inside]
        for name, value in {**_ENVIRONMENT, **(environment or {})}.items():
            words += ["--setenv", name, value]
        words += ["--chdir", next(iter(folders)), "--"]
        self._try(words)
        ended = run_bounded([*words, "timeout", "-k", "5", str(_LIMIT), *command])
        if ended.returncode == _TIMED_OUT:
            ended.stdout += f"not done after {_LIMIT} s\n"
        return ended

    def _program(self) -> str:
        found = shutil.which("bwrap")
        if found is None:
            raise UnsupportedError(
                "programs of the base have to run without a network, and bubblewrap is not installed",
                where=str(self.path),
                hint="apt-get install --no-install-recommends bubblewrap, or use --engine docker",
            )
        return found

    def _try(self, words: Sequence[str]) -> None:
        tried = run_bounded([*words, "true"])
        if tried.returncode:
            raise UnsupportedError(
                f"bubblewrap cannot make a box here: {tried.stdout.strip()[-200:]}",
                where=str(self.path),
                hint="allow user namespaces (or run as root), or use --engine docker",
            )

    def _unpack(self, program: str) -> None:
        """Unpack the programs of the base under a name that nobody looks at, and rename it.

        One run does so at a time; the others find it done.
        """
        prefix = f".{self.path.name[:16]}."
        with disk_errors(self.path.parent), _alone(self.path):
            if self.path.exists():
                return
            for leftover in self.path.parent.glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=prefix, dir=self.path.parent))
            try:
                fresh.chmod(0o755)
                self._extract(fresh)
                self._check(fresh, program)
                fresh.rename(self.path)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def _extract(self, fresh: Path) -> None:
        options = ["--no-same-permissions", "-f", str(self._tarball), *self._parts()]
        untar(fresh, options, what="the base", where=str(self._tarball))

    def _parts(self) -> list[str]:
        """Give those of the parts that the base has: tar fails for one that it lacks."""
        found: set[str] = set()
        try:
            with tarfile.open(self._tarball, "r:") as archive:
                for member in archive:
                    found.add(member.name.removeprefix("./").partition("/")[0])
        except tarfile.TarError as error:
            raise BuildError(f"the base cannot be unpacked: {error}", where=str(self._tarball)) from error
        return [f"./{part}" for part in _PARTS if part in found]

    def _check(self, fresh: Path, program: str) -> None:
        """Refuse a base of whose folders the boxes would show what lies outside of it."""
        for part in _BOUND:
            if (fresh / part).is_symlink() or not (fresh / part).is_dir():
                raise BuildError(
                    f"the base has no folder /{part}, or a link in its place", where=str(self._tarball)
                )
        if not (fresh / program.lstrip("/")).exists():
            raise BuildError(f"the base has no /{program.lstrip('/')}", where=str(self._tarball))


def run_bounded(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, its stdout and stderr as one; of that, which may have no end, the last is kept."""
    kept = b""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        umask=UMASK,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        while chunk := process.stdout.read1():  # type: ignore[attr-defined]  # it is buffered
            kept = (kept + chunk)[-_KEPT:]
    return subprocess.CompletedProcess(words, process.returncode, kept.decode(errors="replace"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
