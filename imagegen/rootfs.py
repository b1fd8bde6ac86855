"""What a base's root file system says of itself, read from its tar; nothing in it is run."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagegen import dpkg
from imagegen.errors import UnfitBaseError

# What `venv` installs from.
SEEDS = "usr/share/python-wheels"
ACCOUNTS = ("etc/passwd", "etc/group", "etc/shadow")
STATUS = "var/lib/dpkg/status"
_VENV_SCRIPTS = re.compile(r"usr/lib/python3(\.\d+)?/venv/scripts/(common|posix)/[\w.-]+")
_WHEELS = re.compile(rf"{SEEDS}/[\w.+-]+\.whl")
_SITE = re.compile(r"(etc|usr/lib)/python3\.\d+/sitecustomize\.py")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "ppc64el": "ppc64le"}
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a base, with its mode and owner (user and group)."""

    content: bytes
    mode: int
    owner: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFs:
    """The parts of a Debian root that an image is made with, by path without the first slash.

    `python` is the version of its Python with the patch release, `arch` as `uname -m` gives it,
    `packages` the installed Debian packages with their versions.
    """

    files: Mapping[str, File]
    python: str
    arch: str
    packages: Mapping[str, str]

    @property
    def libc_version(self) -> str:
        """The version of glibc, as far as wheels ask for it."""
        found = re.match(r"\d+\.\d+", self.packages.get("libc6", ""))
        return found[0] if found else ""

    def venv_scripts(self) -> Iterator[tuple[str, bytes]]:
        """Give the templates of activation scripts by name."""
        for path, file in sorted(self.files.items()):
            if _VENV_SCRIPTS.fullmatch(path):
                yield path.rpartition("/")[2], file.content

    def wheels(self) -> Iterator[str]:
        """Give the file names of the wheels that `venv` installs."""
        yield from (path.rpartition("/")[2] for path in sorted(self.files) if _WHEELS.fullmatch(path))


def read_rootfs(tarball: Path) -> RootFs:
    """Read a base. Raises UnfitBaseError where it is no Debian system with Python."""
    files = _files(tarball)
    packages = dict(_packages(files))
    versions = {name: found[1] for name, version in packages.items()
                if re.fullmatch(r"python3\.\d+-minimal", name)
                and (found := re.match(r"(\d+\.\d+\.\d+)", version[0]))}  # fmt: skip
    name = max(versions, default=None, key=lambda name: int(name.split(".")[1].partition("-")[0]))
    if name is None:
        raise UnfitBaseError(
            "it is no Debian system with Python",
            where=tarball.name,
            hint="a base needs python3 with venv, git and ca-certificates",
        )
    arch = packages[name][1]
    return RootFs(
        files=files,
        python=versions[name],
        arch=_ARCHITECTURES.get(arch, arch),
        packages={package: version for package, (version, _) in packages.items()},
    )


def _files(tarball: Path) -> dict[str, File]:
    with tarfile.open(tarball, "r:") as archive:
        return {
            path: File(content=content.read(), mode=member.mode, owner=(member.uid, member.gid))
            for member in archive
            if _is_wanted(path := posixpath.normpath(member.name))
            and member.isreg()
            and member.size <= _LARGEST
            and (content := archive.extractfile(member))
        }


def _is_wanted(path: str) -> bool:
    return path in (*ACCOUNTS, STATUS) or any(
        pattern.fullmatch(path) for pattern in (_VENV_SCRIPTS, _WHEELS, _SITE)
    )


def _packages(files: Mapping[str, File]) -> Iterator[tuple[str, tuple[str, str]]]:
    status = files.get(STATUS)
    for package in dpkg.installed(status.content.decode(errors="replace")) if status else ():
        yield package.name, (package.version, package.architecture)
