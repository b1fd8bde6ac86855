"""apt in a private root: it knows this host's archives and keys, but not what is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagegen.apt import Source
from imagegen.debslock import Deb, deb_of
from imagegen.errors import BaseError
from lockfiles.urls import without_credentials

# What every system has, in apt's patterns, and apt itself: the same that mmdebstrap's minbase starts from.
SYSTEM = ("?essential", "?priority(required)", "apt")
_URI = re.compile(r"'[^']*' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
# How this host reaches its archives (proxies, certificates, time-outs), but not what it fetches from them.
_REACH = re.compile(r"Acquire::(?!IndexTargets|Languages|GzipIndexes|Allow)\S+ ")
_LIMIT = 3600


class AptRoot:
    """An apt that sees these sources, for one architecture, and an empty system."""

    def __init__(self, folder: Path, where: str) -> None:
        self._folder = folder
        self._where = where

    def resolve(self, packages: Iterable[str]) -> tuple[Deb, ...]:
        """Give all that a system with these packages consists of, without what is only recommended.

        The digests are those of the archives' signed indexes. Raises BaseError.
        """
        wanted = [*SYSTEM, *sorted(packages)]
        said = self._apt("install", "--print-uris", "-qq", "--yes", *wanted)
        try:
            found = [_URI.fullmatch(line) for line in said.splitlines() if line.startswith("'")]
            debs = [deb_of(match["file"], int(match["size"]), match["sha256"]) for match in found if match]
        except ValueError as error:
            raise BaseError(f"apt names a strange package: {error}", where=self._where) from error
        if not debs or len(debs) != len(found):
            raise BaseError("apt knows no SHA-256 of some packages", where=self._where)
        return tuple(sorted(debs, key=lambda deb: deb.file))

    def download(self, debs: Iterable[Deb], folder: Path) -> None:
        """Fetch exactly these packages into a folder. Raises BaseError where one is not to be had."""
        wanted = [f"{deb.name}={deb.version}" for deb in debs]
        self._apt("download", "-qq", *wanted, folder=folder)

    def update(self) -> None:
        """Fetch the indexes and check their signatures. Raises BaseError."""
        self._apt("update", "-qq", "--error-on=any")

    def _apt(self, *words: str, folder: Path | None = None) -> str:
        try:
            ended = subprocess.run(
                ["apt-get", *words],
                cwd=folder or self._folder,
                env={**os.environ, "APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BaseError(
                f"apt was not done after {_LIMIT} s",
                where=self._where,
                hint="check the network and its proxies",
            ) from error
        if ended.returncode:
            raise BaseError(
                f"apt: {_reason(ended.stderr)}",
                where=self._where,
                hint="check the suite, the names under apt, and that `apt-get update` works on this host",
            )
        return ended.stdout


@contextmanager
def private_root(sources: Sequence[Source], architecture: str, where: str) -> Iterator[AptRoot]:
    """Give an apt whose state and caches lie in a folder that goes when the block ends. Raises BaseError."""
    check_tools()
    with tempfile.TemporaryDirectory(prefix="lockstock-apt-") as name:
        folder = Path(name)
        # apt fetches as a user of its own.
        folder.chmod(0o755)
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        _write_private(folder / "private.sources", "\n".join(source.stanza() for source in sources))
        _write_private(folder / "apt.conf", _config(folder, architecture))
        yield AptRoot(folder, where)


def _write_private(path: Path, text: str) -> None:
    """Write a new file that nobody else may read at any time: addresses and proxies may hold credentials."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def native_architecture() -> str:
    """Say what this host is in Debian's words. Raises BaseError."""
    check_tools()
    return subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()


def check_tools() -> None:
    """Raise BaseError where apt is not to be had."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise BaseError(
                f"{tool} is not installed, and it is needed for {_LOCK_NEEDS[tool]}",
                hint="use a host with apt (Debian, Ubuntu), or an oci: or registry: base",
            )


_LOCK_NEEDS = {"apt-get": "choosing and fetching Debian packages", "dpkg-deb": "reading Debian packages"}


def _config(folder: Path, architecture: str) -> str:
    dumped = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False
    ).stdout
    reach = [line for line in dumped.splitlines() if _REACH.match(line)]
    own = {
        "Dir::State": f"{folder}/state/",
        "Dir::State::status": f"{folder}/status",
        "Dir::Cache": f"{folder}/cache/",
        "Dir::Etc::sourcelist": f"{folder}/private.sources",
        **dict.fromkeys(("Dir::Etc::sourceparts", "Dir::Etc::main", "Dir::Etc::parts"), "/dev/null"),
        **dict.fromkeys(("Dir::Etc::preferences", "Dir::Etc::preferencesparts"), "/dev/null"),
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::ForceHash": "SHA256",
    }
    return "\n".join([*reach, *(f'{name} "{value}";' for name, value in own.items()), ""])


def _reason(said: str) -> str:
    lines = [without_credentials(line.strip()) for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return (errors or lines or ["it said nothing"])[0]
