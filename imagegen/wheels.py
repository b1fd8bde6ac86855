"""Wheels unpacked into a virtual environment as archive entries, without pip and without a container.

The binary distribution format is that of the packaging specifications: `installer` reads it, this
module checks what it is given and says where things go. Nothing of a wheel is executed.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import Hash, InvalidRecordEntry, RecordEntry
from installer.scripts import Script
from installer.sources import WheelContentElement, WheelFile
from installer.utils import Scheme, construct_record_file, fix_shebang
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from imagegen.archive import Entry
from imagegen.errors import WheelError
from imagegen.zipped import Member, Zip
from lockfiles.target import Target

INSTALLER = "lockstock"
_STRONG = ("sha256", "sha384", "sha512")
_NO_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
_MOST_FILES = 200_000
# A wheel may hold much air, but never more than this many bytes for each of its own, beyond a floor.
_MOST_AIR, _FLOOR = 200, 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Venv:
    """Where a virtual environment lies, absolute, and the minor version of its Python."""

    root: str
    python: str

    @property
    def interpreter(self) -> str:
        """What scripts are run by."""
        return f"{self.root}/bin/python3"

    @property
    def site_packages(self) -> str:
        """Modules, below the environment."""
        return f"lib/python{self.python}/site-packages"

    def folder(self, scheme: Scheme, distribution: str) -> str:
        """Say where a scheme's files lie below the environment, as `sysconfig` does for one."""
        return {
            "purelib": self.site_packages,
            "platlib": self.site_packages,
            "scripts": "bin",
            "headers": f"include/site/python{self.python}/{distribution}",
            "data": "",
        }[scheme]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A wheel's files, sorted, at absolute paths without the first slash.

    `digests` are the SHA-256 of the entries, in hex; `targets` are the modules that its console
    scripts call, dotted, with the scripts' names.
    """

    entries: tuple[Entry, ...]
    digests: tuple[str, ...] = ()
    targets: tuple[tuple[str, str], ...] = ()


def unpack(path: Path, filename: str, venv: Venv, target: Target) -> Unpacked:
    """Unpack the wheel at `path`, which is called `filename`, for an image of this target.

    Raises WheelError when it is not made for the target, its RECORD is wrong, a path leads out of
    its place, it holds links or is a bomb, or two of its own files want one place.
    """
    _check_tags(filename, target)
    try:
        with Zip(path) as archive:
            archive.filename = filename  # the store knows it by its digest
            _check_members(archive, path.stat().st_size)
            source = _CheckedWheel(archive)
            source.validate_record(validate_contents=False)
            destination = _Entries(venv=venv, distribution=source.distribution)
            install(source, destination, {"INSTALLER": f"{INSTALLER}\n".encode()})
    except WheelFile.validation_error as error:
        raise WheelError(_first_issue(error), where=filename) from error
    except (InstallerError, InvalidRecordEntry, ValueError, KeyError) as error:
        raise WheelError(f"it is not a valid wheel: {error}", where=filename) from error
    except _NO_ZIP as error:
        raise WheelError(f"it is not a readable zip file: {error}", where=filename) from error
    return destination.unpacked()


def program_entries(path: Path, filename: str, folder: str, names: str) -> tuple[Entry, ...]:
    """Give the programs of a wheel whose names begin with `names`, for `folder` of the image.

    Raises WheelError.
    """
    try:
        with Zip(path) as archive:
            _check_members(archive, path.stat().st_size)
            found = [name for name in archive.namelist() if f".data/scripts/{names}" in name]
            members = ((name.rpartition("/")[2], archive.member(name)) for name in sorted(found))
            return tuple(
                Entry(path=f"{folder}/{name}", content=member.content, mode=0o755) for name, member in members
            )
    except (*_NO_ZIP, ValueError) as error:
        raise WheelError(f"it is not a readable wheel: {error}", where=filename) from error


class _CheckedWheel(WheelFile):
    """A wheel whose every file is compared with its line in RECORD before it is used."""

    def get_contents(self) -> Iterator[WheelContentElement]:
        record = f"{self.dist_info_dir}/RECORD"
        for elements, stream, executable in super().get_contents():
            if "__pycache__" in elements[0].split("/")[:-1]:
                continue  # compiled files that cannot be checked against their source
            member = cast("Member", stream)  # as our Zip opens them
            if elements[0] != record:
                self._check(RecordEntry.from_elements(*elements), member)
            yield elements, member, executable

    @staticmethod
    def _check(record: RecordEntry, member: Member) -> None:
        if record.hash_ is None or record.hash_.name not in _STRONG:
            if record.path.endswith(("/RECORD.jws", "/RECORD.p7s")):
                return  # signatures of RECORD itself
            raise ValueError(f"RECORD has no strong digest of {record.path}")
        if record.hash_.name == "sha256":  # is counted once, for us and for the layer's claims
            right = record.size in (None, member.size) and record.hash_.value == _encoded(member.sha256)
        else:
            right = record.validate(member.getvalue())
        if not right:
            raise ValueError(f"{record.path} is not what RECORD says")


@dataclass(slots=True, kw_only=True)
class _Entries(WheelDestination):
    """Collects what `installer` writes."""

    venv: Venv
    distribution: str
    found: dict[str, Entry] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    targets: list[tuple[str, str]] = field(default_factory=list)

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        """Add a script that calls an entry point."""
        script = Script(name, module, attr, section)  # type: ignore[arg-type]  # a Literal, checked there
        name, data = script.generate(self.venv.interpreter, "posix")
        if "/" in name or not name.isprintable() or name in (".", ".."):
            raise ValueError(f"{name!r} cannot be the name of a script")
        if section == "console":
            self.targets.append((name, module))
        return self._add(Scheme("scripts"), name, BytesIO(data), executable=True)

    def write_file(self, scheme: Scheme, path: object, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        """Add a file; scripts get the environment's interpreter."""
        if scheme != "scripts":
            return self._add(scheme, str(path), stream, executable=is_executable)
        with fix_shebang(stream, self.venv.interpreter) as fixed:
            return self._add(scheme, str(path), fixed, executable=True)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        """Add RECORD, which says what was written where, relative to the modules."""
        stream = construct_record_file(records, self._prefix)
        self._add(scheme, record_file_path, stream, executable=False)

    def unpacked(self) -> Unpacked:
        """Give all that was added."""
        ordered = sorted(self.found.values(), key=lambda entry: entry.path)
        return Unpacked(
            entries=tuple(ordered),
            digests=tuple(self.digests[entry.path] for entry in ordered),
            targets=tuple(sorted(self.targets)),
        )

    def _add(self, scheme: Scheme, path: str, stream: BinaryIO, *, executable: bool) -> RecordEntry:
        member = stream if isinstance(stream, Member) else Member(stream.read())
        folder = self.venv.folder(scheme, self.distribution)
        place = "/".join(part for part in (self.venv.root.lstrip("/"), folder, path) if part)
        entry = Entry(path=place, content=member.content, mode=0o755 if executable else 0o644)
        self.found.setdefault(place, entry)
        if self.digests.setdefault(place, member.sha256.hex()) != member.sha256.hex():
            raise ValueError(f"two of its files want to be {place}")
        return RecordEntry(path, Hash("sha256", _encoded(member.sha256)), member.size)

    def _prefix(self, scheme: Scheme) -> str | None:
        folder = self.venv.folder(scheme, self.distribution)
        up = "../" * (self.venv.site_packages.count("/") + 1)
        return None if folder == self.venv.site_packages else f"{up}{folder}/" if folder else up


def _encoded(digest: bytes) -> str:
    """Write a digest as RECORD does."""
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _check_tags(filename: str, target: Target) -> None:
    try:
        tags = parse_wheel_filename(filename)[3]
    except InvalidWheelFilename as error:
        raise WheelError(str(error), where=filename) from error
    if tags.isdisjoint(target.tags):
        raise WheelError(
            f"it is not made for {target}", where=filename, hint="run `mirror refresh`, which chooses again"
        )


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse what leads out of its place or unfolds beyond reason, by the table of contents alone."""
    members = archive.infolist()
    if len(members) > _MOST_FILES or sum(m.file_size for m in members) > _FLOOR + _MOST_AIR * size:
        raise ValueError("it unfolds to far more than its own size")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        # Directories may be listed with a slash at their end.
        parts = name.removesuffix("/").split("/")
        if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{name!r} leads out of it")
        if not name.isprintable():
            raise ValueError(f"{name!r} has control characters")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{name!r} is a link or a device")
        if name in seen:
            raise ValueError(f"{name!r} is in it twice")
        seen.add(name)


def _first_issue(error: Exception) -> str:
    issues = getattr(error, "issues", None) or [str(error)]
    more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
    return f"its RECORD is wrong: {issues[0]}{more}"
