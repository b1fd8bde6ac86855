"""What a base's root file system says of itself, read from its tar; nothing in it is run."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from imagegen import dpkg
from imagegen.errors import BaseError, UnfitBaseError

ACCOUNTS = ("etc/passwd", "etc/group", "etc/shadow")
STATUS = "var/lib/dpkg/status"
_VENV_SCRIPTS = re.compile(r"(usr(/local)?)/lib/python3(\.\d+)?/venv/scripts/(common|posix)/[\w.-]+")
# What `venv` installs from: Debian's own place, and that of a Python as its makers build it.
_WHEELS = re.compile(
    r"(usr)/share/python-wheels/[\w.+-]+\.whl|(usr/local)/lib/python3\.\d+/ensurepip/_bundled/[\w.+-]+\.whl"
)
_SITE = re.compile(r"(etc|usr/lib|usr/local/lib)/python3\.\d+/sitecustomize\.py")
_BUILT = re.compile(r"usr/local/include/python3\.\d+/patchlevel\.h")
_PROGRAMS = re.compile(r"usr/(?:local/)?bin/(?:node|npm)")
_RELEASE = ("etc/os-release", "usr/lib/os-release")
_FILES = "|".join(
    (
        *map(re.escape, (*ACCOUNTS, *_RELEASE, STATUS)),
        *(pattern.pattern for pattern in (_VENV_SCRIPTS, _WHEELS, _SITE, _BUILT)),
    )
)
_WANTED = re.compile(f"{_FILES}|{_PROGRAMS.pattern}")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "ppc64el": "ppc64le"}
_LARGEST = 64 << 20
_BLOCK = 512
# Of a tar header: the path, the size, the kind, and what stands before the path where that is long.
_HEADER = Struct("100s24x12s20xc188x155s12x")
_FILE, _EMPTY = b"0", (b"1", b"2", b"5")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a base, with its mode and owner (user and group)."""

    content: bytes
    mode: int
    owner: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFs:
    """The parts of a Debian root that an image is made with, by path without the first slash.

    `python` is the version of its Python with the patch release, which lies below `prefix`, `arch` as
    `uname -m` gives it, `packages` the installed Debian packages with their versions, `programs` are
    those of Node.js that it has.
    """

    files: Mapping[str, File]
    python: str
    arch: str
    packages: Mapping[str, str]
    prefix: str = "/usr"
    programs: frozenset[str] = frozenset()

    @property
    def minor(self) -> str:
        """The version of its Python without the patch release."""
        return self.python.rpartition(".")[0]

    @property
    def build(self) -> str:
        """The exact build of its Python, as far as one can know it."""
        return self.packages.get(f"python{self.minor}-minimal", "") if self.prefix == "/usr" else self.python

    @property
    def distribution(self) -> tuple[str, str]:
        """The names of the distribution and its release (os-release(5)); `debian` where it is silent."""
        texts = [self.files[path].content.decode(errors="replace") for path in _RELEASE if path in self.files]
        pairs = (line.partition("=") for line in "\n".join(texts).splitlines())
        values = {key: value.strip("\"' ") for key, _, value in pairs}
        return values.get("ID", "debian"), values.get("VERSION_CODENAME", "")

    @property
    def libc_version(self) -> str:
        """The version of glibc, as far as wheels ask for it."""
        found = re.match(r"\d+\.\d+", self.packages.get("libc6", ""))
        return found[0] if found else ""

    def venv_scripts(self) -> Iterator[tuple[str, bytes]]:
        """Give the templates of activation scripts by name."""
        for path, file in sorted(self.files.items()):
            if (found := _VENV_SCRIPTS.fullmatch(path)) and f"/{found[1]}" == self.prefix:
                yield path.rpartition("/")[2], file.content

    def wheels(self) -> dict[str, bytes]:
        """Give the wheels that `venv` installs by their file names."""
        return {
            path.rpartition("/")[2]: file.content
            for path, file in sorted(self.files.items())
            if (found := _WHEELS.fullmatch(path)) and f"/{found[1] or found[2]}" == self.prefix
        }


def read_rootfs(tarball: Path) -> RootFs:
    """Read a base. Raises UnfitBaseError where it is no Debian system with Python, BaseError on damage."""
    files, programs = _files(tarball)
    packages = dict(_packages(files))
    name, version = _debian_python(packages)
    built = _built_python(files)
    if not (built or version) or "libc6" not in packages:
        raise UnfitBaseError(
            "it is no Debian system with Python",
            where=tarball.name,
            hint="a base needs python3 with venv, git and ca-certificates",
        )
    arch = packages["libc6"][1] if built else packages[name][1]
    return RootFs(
        files=files,
        python=built or version,
        arch=_ARCHITECTURES.get(arch, arch),
        packages={package: version for package, (version, _) in packages.items()},
        prefix="/usr/local" if built else "/usr",
        programs=programs,
    )


def _debian_python(packages: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Give the package and the version of the newest Python that Debian's own packages brought."""
    versions = {name: found[1] for name, version in packages.items()
                if re.fullmatch(r"python3\.\d+-minimal", name)
                and (found := re.match(r"(\d+\.\d+\.\d+)", version[0]))}  # fmt: skip
    name = max(versions, default="", key=lambda name: int(name.split(".")[1].partition("-")[0]))
    return name, versions.get(name, "")


def _built_python(files: Mapping[str, File]) -> str:
    """Give the version of a Python below /usr/local, which comes first on PATH; "" where there is none."""
    texts = (file.content.decode(errors="replace") for path, file in files.items() if _BUILT.fullmatch(path))
    found = (re.search(r'#define\s+PY_VERSION\s+"(3\.\d+\.\d+)', text) for text in texts)
    return max((match[1] for match in found if match), default="", key=_numbers)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _files(tarball: Path) -> tuple[dict[str, File], frozenset[str]]:
    """Give the files that are wanted, and the names of programs, which may be links. Raises BaseError."""
    files, programs = {}, set()
    try:
        for path, member, archive in _members(tarball):
            if _PROGRAMS.fullmatch(path):
                programs.add(posixpath.basename(path))
            if not (re.fullmatch(_FILES, path) and member.isreg() and member.size <= _LARGEST):
                continue
            if content := archive.extractfile(member):
                files[path] = File(content=content.read(), mode=member.mode, owner=(member.uid, member.gid))
    except tarfile.TarError as error:
        raise BaseError(
            f"it is no readable tar any more: {error}",
            where=str(tarball),
            hint=f"delete {tarball} and build again: it is made or fetched anew",
        ) from error
    return files, frozenset(programs)


def _members(tarball: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """Give the members that are wanted, by path.

    Of a base's thousands of headers, those of other files are only looked at for where the next one lies:
    tarfile takes ten times as long to read them all. It reads those that are wanted or not quite plain.
    """
    with tarball.open("rb", buffering=0) as file:
        offset = 0
        while len(header := os.pread(file.fileno(), _BLOCK, offset)) == _BLOCK:
            after = _after(header, offset)
            if after is None:
                file.seek(offset)
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    if (member := archive.next()) is None:
                        return
                    yield posixpath.normpath(member.name), member, archive
                    after = archive.offset
            offset = after
        if header or not offset or offset != os.fstat(file.fileno()).st_size:
            raise tarfile.ReadError("unexpected end of data")


def _after(header: bytes, offset: int) -> int | None:
    """Say where a file ends that nobody wants; None for those that are wanted, and for what is less plain."""
    name, size, kind, prefix = _HEADER.unpack(header)
    if kind in _EMPTY:
        length = 0
    elif kind == _FILE and (octal := size.rstrip(b"\0 ")) and not octal.strip(b"01234567"):
        length = int(octal, 8)
    else:
        return None
    path = name.partition(b"\0")[0]
    if prefix[0]:
        path = prefix.partition(b"\0")[0] + b"/" + path
    wanted = _WANTED.fullmatch(posixpath.normpath(path.decode("utf-8", "surrogateescape")))
    return None if wanted else offset + _BLOCK + length + -length % _BLOCK


def _packages(files: Mapping[str, File]) -> Iterator[tuple[str, tuple[str, str]]]:
    status = files.get(STATUS)
    for package in dpkg.installed(status.content.decode(errors="replace")) if status else ():
        yield package.name, (package.version, package.architecture)
