"""Which package of an image wants which file, and whether all of them go together. Pure."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
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

    def has_module(self, module: str) -> bool:
        """Say whether a module or package, dotted, is in it."""
        place = module.replace(".", "/")
        insides = (path.partition("/site-packages/")[2] for path in self.files)
        return any(_is_of(inside[len(place) :]) for inside in insides if inside.startswith(place))


def _is_of(rest: str) -> bool:
    """Say whether what follows the name of a module is the rest of its own file's name, or leads into it."""
    return rest.startswith("/") or (
        rest.startswith(".") and rest.endswith((".py", ".so")) and "/" not in rest
    )


def check_together(claims: Iterable[Claims], *, scripts: bool = True) -> None:
    """Check the wheels of one image against each other; their scripts only when they are all there.

    Raises CollisionError where two want different files in one place (those of one name space may
    bring the same file), WheelError where a script calls a module that none of them has.
    """
    found = list(claims)
    seen: dict[str, str] = {}
    for claim in found:
        # Files are tens of thousands, and those that two wheels want are few: sets find them at once.
        for path in sorted(seen.keys() & claim.files.keys()):
            if seen[path] != claim.files[path]:
                raise CollisionError(
                    f"this and {_owner(found, path)} both want to be /{path}", where=claim.package
                )
        seen |= claim.files
    _check_folders(found, seen)
    if scripts:
        _check_scripts(found)


def _owner(claims: Iterable[Claims], path: str) -> str:
    """Name the first package that wants a file, or has one below a path that ends in a slash."""
    return next(
        claim.package
        for claim in claims
        if path in claim.files or (path.endswith("/") and any(file.startswith(path) for file in claim.files))
    )


def _check_folders(claims: Sequence[Claims], files: Mapping[str, str]) -> None:
    folders = {path.rpartition("/")[0] for path in files}
    while folders:
        for folder in sorted(files.keys() & folders):
            raise CollisionError(
                f"/{folder} is a folder of it, and a file of {_owner(claims, folder)}",
                where=_owner(claims, f"{folder}/"),
            )
        folders = {path.rpartition("/")[0] for path in folders if "/" in path}


def _check_scripts(claims: Sequence[Claims]) -> None:
    for claim in claims:
        for script, module in claim.scripts:
            if module.partition(".")[0] in sys.stdlib_module_names:
                continue
            # It is nearly always one of the same wheel.
            if not any(one.has_module(module) for one in (claim, *claims)):
                raise WheelError(
                    f"its script {script!r} calls {module}, and no package of the image has that module",
                    where=claim.package,
                    hint="the package that has it is missing from the lock, or the wheel is broken",
                )
