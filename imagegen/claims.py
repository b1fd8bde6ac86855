"""Which package of an image wants which file, and whether all of them go together. Pure."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imagegen.archive import Entry
from imagegen.errors import CollisionError, WheelError
from imagegen.wheels import Unpacked

# Of a file's SHA-256 as many hexadecimal digits as make it known.
_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one wheel puts where: its files with the digests of their content, and its scripts.

    `scripts` are pairs of a console script and the module it calls.
    """

    package: str
    files: Mapping[str, str]
    scripts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, filename: str, unpacked: Unpacked) -> Claims:
        """Take the claims of an unpacked wheel."""
        pairs = zip(unpacked.entries, unpacked.digests, strict=True)
        files = {entry.path: digest[:_DIGITS] for entry, digest in pairs}
        return cls(package=filename, files=files, scripts=unpacked.targets)

    @classmethod
    def of_environment(cls, entries: Iterable[Entry]) -> Claims:
        """Take the claims of the environment itself, whose programs no wheel may replace."""
        files = {
            entry.path: hashlib.sha256(b"".join(entry.pieces())).hexdigest()[:_DIGITS]
            if entry.link is None
            else f"to {entry.link}"
            for entry in entries
            if not entry.folder
        }
        return cls(package="the virtual environment", files=files)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Claims:
        """Read what `plain` gave."""
        scripts = tuple((name, module) for name, module in plain["scripts"])
        return cls(package=plain["package"], files=plain["files"], scripts=scripts)

    def plain(self) -> dict[str, Any]:
        """Give them as plain data."""
        return {"package": self.package, "files": dict(self.files), "scripts": list(self.scripts)}

    def modules(self) -> Iterator[str]:
        """Give all modules and packages, dotted."""
        for path in self.files:
            _, found, inside = path.partition("/site-packages/")
            *folders, name = inside.split("/") if found else [""]
            yield from (".".join(folders[: depth + 1]) for depth in range(len(folders)))
            if name.endswith((".py", ".so")):
                yield ".".join([*folders, name.partition(".")[0]])


def check_together(claims: Iterable[Claims], *, scripts: bool = True) -> None:
    """Check the wheels of one image against each other; their scripts only when they are all there.

    Raises CollisionError where two want different files in one place (those of one name space may
    bring the same file), WheelError where a script calls a module that none of them has.
    """
    found = list(claims)
    seen: dict[str, tuple[str, str]] = {}
    for claim in found:
        for path, digest in claim.files.items():
            other, package = seen.setdefault(path, (digest, claim.package))
            if other != digest:
                raise CollisionError(f"this and {package} both want to be /{path}", where=claim.package)
    _check_folders({path: package for path, (_, package) in seen.items()})
    if scripts:
        _check_scripts(found)


def _check_folders(owners: Mapping[str, str]) -> None:
    folders = {path.rpartition("/")[0]: package for path, package in owners.items()}
    while folders:
        for folder, package in folders.items():
            if folder in owners:
                raise CollisionError(
                    f"/{folder} is a folder of it, and a file of {owners[folder]}", where=package
                )
        folders = {path.rpartition("/")[0]: package for path, package in folders.items() if "/" in path}


def _check_scripts(claims: Iterable[Claims]) -> None:
    modules = {module for claim in claims for module in claim.modules()}
    for claim in claims:
        for script, module in claim.scripts:
            if module not in modules and module.partition(".")[0] not in sys.stdlib_module_names:
                raise WheelError(
                    f"its script {script!r} calls {module}, and no package of the image has that module",
                    where=claim.package,
                    hint="the package that has it is missing from the lock, or the wheel is broken",
                )
