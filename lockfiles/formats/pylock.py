"""pylock.toml (PEP 751), validated by `packaging.pylock`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from packaging import pylock
from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

from lockfiles.document import Document, Table, parse_toml
from lockfiles.errors import LockError
from lockfiles.filenames import check_wheel_name
from lockfiles.formats.fields import Read
from lockfiles.model import (
    Artifact,
    Digest,
    GitSource,
    IndexSource,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.moments import moment
from lockfiles.specs import normalize, parse_specifier
from lockfiles.urls import filename_of, is_commit, redact

_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_File = pylock.PackageWheel | pylock.PackageSdist | pylock.PackageArchive


def looks_like(text: str) -> bool:
    """Say whether the text has the two keys that every pylock.toml has."""
    return re.search(r"^lock-version\s*=", text, re.MULTILINE) is not None and "created-by" in text


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a pylock.toml. Raises LockError with the path and line of what is not to the specification."""
    table = parse_toml(filename, text, LockError)
    lock = _validated(table)
    return Lock(
        format="pylock.toml",
        packages=tuple(_packages(lock, table.document)),
        requires_python=str(lock.requires_python) if lock.requires_python is not None else None,
        environments=tuple(lock.environments or ()),
        extras=tuple(lock.extras or ()),
        groups=tuple(lock.dependency_groups or ()),
        own_groups=tuple(lock.default_groups or ()),
    )


def _validated(table: Table) -> Pylock:
    _check_wheels(table)
    try:
        lock = Pylock.from_dict(table.value)
        parse_specifier(str(lock.requires_python or ""))
    except PylockUnsupportedVersionError as error:
        raise table.fault("lock-version", str(error), "write it in version 1.0") from error
    except PylockValidationError as error:
        path = tuple(int(index) if index else key for key, index in _PART.findall(error.context or ""))
        raise table.document.fault(path, redact(error.message)) from error
    except (ValueError, RecursionError) as error:
        raise table.fault("", "it holds a number, version or marker that cannot be read") from error
    return lock


def _check_wheels(table: Table) -> None:
    """Refuse the names that `packaging` would take for ever to read."""
    for package in table.tables("packages"):
        for wheel in package.tables("wheels"):
            for key in ("name", "path", "url"):
                wheel.parsed(key, _check_name)


def _check_name(path: str) -> None:
    check_wheel_name(unquote(path) if "%" in path else path.rpartition("/")[2])


def _packages(lock: Pylock, document: Document) -> Iterator[Package]:
    for index, package in enumerate(lock.packages):
        try:
            yield _package(package)
        except ValueError as error:
            raise document.fault(("packages", index), redact(str(error))) from error


def _package(package: pylock.Package) -> Package:
    files = (package.archive,) if package.archive else (*(package.wheels or ()), package.sdist)
    return Package(
        name=normalize(package.name),
        version=str(package.version) if package.version is not None else None,
        marker=package.marker,
        requires_python=str(parse_specifier(str(package.requires_python)))
        if package.requires_python
        else None,
        artifacts=tuple(_artifact(file) for file in files if file is not None),
        source=_source(package),
    )


def _artifact(file: _File) -> Artifact:
    if isinstance(file, pylock.PackageArchive):
        name = (file.path or "").replace("\\", "/").rpartition("/")[2] or filename_of(file.url or "")
    else:
        name = file.filename
    known = (Digest.parse(f"{algorithm}:{value}") for algorithm, value in file.hashes.items())
    return Artifact(
        filename=name,
        digests=tuple(known),
        url=file.url,
        size=file.size,
        upload_time=moment(file.upload_time),
    )


def _source(package: pylock.Package) -> Source:
    if package.vcs is not None:
        return _vcs(package.vcs)
    if package.directory is not None:
        return PathSource(
            path=package.directory.path,
            editable=bool(package.directory.editable),
            subdirectory=package.directory.subdirectory,
        )
    if package.archive is None:
        return IndexSource(url=package.index)
    if package.archive.url is None:
        return PathSource(path=package.archive.path or "", subdirectory=package.archive.subdirectory)
    return UrlSource(url=package.archive.url, subdirectory=package.archive.subdirectory)


def _vcs(vcs: pylock.PackageVcs) -> Source:
    if vcs.type != "git" or not is_commit(vcs.commit_id):
        raise ValueError("only git repositories at a commit of 40 hexadecimal digits can be stocked")
    return GitSource(url=vcs.url or vcs.path or "", commit=vcs.commit_id, subdirectory=vcs.subdirectory)
