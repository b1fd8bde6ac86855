"""The machine that packages are chosen for, which is hardly ever the one that chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from packaging.tags import Tag, compatible_tags, cpython_tags

_ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
_OCI_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NODE_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
_OLDEST_GLIBC = {"x86_64": 5}
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_NEWEST_MICRO = 99
# Python and glibc of the releases that base images are made of.
RELEASES: Mapping[str, tuple[str, str]] = {
    "bullseye": ("3.9", "2.31"),
    "bookworm": ("3.11", "2.36"),
    "trixie": ("3.13", "2.41"),
    "jammy": ("3.10", "2.35"),
    "noble": ("3.12", "2.39"),
}
DEFAULT_LIBC = {"glibc": "2.36", "musl": "1.2"}


@dataclass(frozen=True, order=True)
class Target:
    """A CPython on a Linux with a libc, by version.

    `python` is "3.11" or, where the patch release is known, "3.11.2"; `arch` is as `uname -m`
    says it; `libc` is "glibc" or "musl". The text form is `3.11/linux/amd64/glibc2.36`.
    """

    python: str
    arch: str = "x86_64"
    libc: str = "glibc"
    libc_version: str = "2.36"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read the text form; the libc may be left out. Raises ValueError with a reason."""
        python, _, platform = text.partition("/")
        return cls.of(python, platform)

    @classmethod
    def of(cls, python: str, platform: str, glibc: str | None = None) -> Target:
        """Make a target of a Python version and `linux/ARCH[/LIBC]`. Raises ValueError."""
        parts = platform.split("/")
        if parts[0] != "linux" or len(parts) not in (2, 3) or parts[1] not in _ARCHITECTURES:
            raise ValueError(f"{platform!r} is not a platform: linux/amd64, linux/arm64, linux/amd64/musl …")
        if not _is_version(python, (2, 3)) or not python.startswith("3."):
            raise ValueError(f"{python!r} is not a Python version: 3.11 or 3.11.2")
        libc, version = _split_libc(parts[2] if len(parts) == 3 else "glibc", glibc)
        return cls(python, _ARCHITECTURES[parts[1]], libc, version)

    @property
    def minor(self) -> str:
        """The Python version without its patch release, `3.11`."""
        return ".".join(self.python.split(".")[:2])

    @property
    def oci_platform(self) -> str:
        """Operating system and architecture as the OCI image specification names them."""
        return f"linux/{_OCI_ARCHITECTURES[self.arch]}"

    @property
    def node_platform(self) -> tuple[str, str, str]:
        """Operating system, processor and C library as Node.js and npm name them."""
        return "linux", _NODE_ARCHITECTURES[self.arch], self.libc

    def __str__(self) -> str:
        return f"{self.python}/{self.oci_platform}/{self.libc}{self.libc_version}"

    @cached_property
    def environments(self) -> tuple[Mapping[str, str], ...]:
        """The marker environments of this target (PEP 508).

        There is one where the patch release is known. Otherwise the first and the last of the
        series stand for all, and what either of them needs is needed.
        """
        if self.python.count(".") == 2:
            return (self._environment(self.python),)
        return tuple(self._environment(f"{self.python}.{micro}") for micro in (0, _NEWEST_MICRO))

    def _environment(self, full_version: str) -> Mapping[str, str]:
        return {
            "implementation_name": "cpython",
            "implementation_version": full_version,
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full_version,
            "python_version": self.minor,
            "sys_platform": "linux",
        }

    @property
    def tags(self) -> tuple[Tag, ...]:
        """The wheel tags this target takes, the best first, in the order of pip."""
        return _tags(self)

    def ranks(self) -> dict[Tag, int]:
        """Map each tag to its place in the order; the lower the better."""
        return _ranks(self)


@lru_cache(maxsize=256)
def _tags(target: Target) -> tuple[Tag, ...]:
    version = tuple(int(part) for part in target.minor.split("."))
    platforms = list(_platforms(target))
    interpreter = f"cp{version[0]}{version[1]}"
    return (
        *cpython_tags(version, [interpreter], platforms),
        *compatible_tags(version, interpreter, platforms),
    )


@lru_cache(maxsize=256)
def _ranks(target: Target) -> dict[Tag, int]:
    return {tag: rank for rank, tag in reversed(list(enumerate(_tags(target))))}


def _platforms(target: Target) -> Iterator[str]:
    """Give platform tags in pip's order: plain Linux, then PEP 600 with its legacy aliases or PEP 656."""
    newest = int(target.libc_version.split(".")[1])
    yield f"linux_{target.arch}"
    if target.libc == "musl":
        yield from (f"musllinux_1_{minor}_{target.arch}" for minor in range(newest, -1, -1))
    else:
        for minor in range(newest, _OLDEST_GLIBC.get(target.arch, 17) - 1, -1):
            yield f"manylinux_2_{minor}_{target.arch}"
            if minor in _LEGACY_MANYLINUX:
                yield f"{_LEGACY_MANYLINUX[minor]}_{target.arch}"


def _split_libc(text: str, glibc: str | None) -> tuple[str, str]:
    for libc, default in DEFAULT_LIBC.items():
        if text.startswith(libc):
            version = text.removeprefix(libc) or (glibc if libc == "glibc" and glibc else default)
            if not _is_version(version, (2,)):
                raise ValueError(f"{version!r} is not a version of {libc}: for example {default}")
            return libc, version
    raise ValueError(f"{text!r} is not a C library: glibc, glibc2.36, musl or musl1.2")


def _is_version(text: str, lengths: tuple[int, ...]) -> bool:
    parts = text.split(".")
    return len(parts) in lengths and all(part.isascii() and part.isdigit() for part in parts)
