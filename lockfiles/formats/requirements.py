"""requirements.txt with hashes, as pip-tools and uv write it and pip reads it.

The syntax is that of pip's "requirements file format". `${VAR}` is kept as it stands: whoever
fetches expands it, and nothing that is printed holds its value.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from packaging.markers import Marker
from packaging.requirements import Requirement

from lockfiles.errors import LockError, MissingHashError
from lockfiles.filenames import name_and_version
from lockfiles.formats.fields import Read, both
from lockfiles.formats.requirement_lines import INCLUDES, OF_A_REQUIREMENT, Line, logical_lines
from lockfiles.model import (
    Artifact,
    Digest,
    GitSource,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.specs import normalize, parse_marker, parse_requirement
from lockfiles.urls import filename_of, redact, split_commit, split_fragment

_NAME_AT_URL = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\]\s*)?@")
_SCHEME = re.compile(r"(?:[a-z]+\+)?[a-z]+:")
_SIGNATURE = re.compile(r"^[A-Za-z0-9][\w.-]*(?:\[[^\]\n]*\])?==[^\n]*(?:\n\s+)?--hash[= ]", re.MULTILINE)
_HINT = "make hashes with `pip-compile --generate-hashes` or `uv pip compile --generate-hashes`"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What has been read so far of a file and those it includes."""

    read: Read | None
    top: str
    requirements: list[Line] = field(default_factory=list)
    constraints: dict[str, list[Line]] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    seen: set[tuple[str, bool]] = field(default_factory=set)


def looks_like(text: str) -> bool:
    """Say whether the text holds a pinned requirement with a hash."""
    return _SIGNATURE.search(text) is not None


def parse(filename: str, text: str, read: Read | None = None) -> Lock:
    """Read a requirements file and, through `read`, those it includes.

    Raises MissingHashError for a requirement without a hash, LockError for what is not pinned or
    not understood; both name file, line and package.
    """
    reading = _Reading(read=read, top=filename)
    _take(filename, text, reading, constraint=False)
    return Lock(
        format="requirements.txt",
        packages=tuple(p for line in reading.requirements for p in _packages(line, reading.constraints)),
        options={name: tuple(values) for name, values in sorted(reading.options.items())},
    )


def _take(filename: str, text: str, reading: _Reading, *, constraint: bool) -> None:
    """Sort the lines of one file into requirements, constraints and options."""
    reading.seen.add((filename, constraint))
    for line in logical_lines(filename, text):
        for option, value in line.options:
            if option in INCLUDES:
                _include(line, value, reading, constraint=constraint or option == "constraint")
            elif option not in OF_A_REQUIREMENT:
                reading.options.setdefault(option, []).append(value)
        if line.text and constraint:
            reading.constraints.setdefault(_name(line), []).append(line)
        elif line.text:
            reading.requirements.append(line)


def _include(line: Line, target: str, reading: _Reading, *, constraint: bool) -> None:
    path = _included_path(line, target, reading.top)
    if (path, constraint) in reading.seen:
        return
    if reading.read is None:
        raise LockError(f"includes {path!r}, which is not at hand", where=line.where)
    try:
        _take(path, reading.read(path), reading, constraint=constraint)
    except (OSError, KeyError):
        raise LockError(f"includes {path!r}, which cannot be read", where=line.where) from None
    except RecursionError:
        raise LockError("includes files too deeply", where=line.where) from None


def _included_path(line: Line, target: str, top: str) -> str:
    """Give the path of an included file, which may not lie outside the project's folder."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(line.file), target))
    root = posixpath.dirname(top).rstrip("/") + "/" if posixpath.isabs(top) else ""
    inside = path.startswith(root) if root else not path.startswith(("../", "/"))
    if not inside or path == ".." or not target.isprintable() or _SCHEME.match(target):
        raise LockError(
            f"includes {redact(target)!r}, which is not a file of this project",
            where=line.where,
            hint="copy the file into the project and include it from there",
        )
    return path


def _name(line: Line) -> str:
    return normalize(_requirement(line).name)


def _requirement(line: Line) -> Requirement:
    try:
        requirement = parse_requirement(line.text)
        normalize(requirement.name)  # refuses what no folder can be called
        return requirement
    except ValueError as error:
        raise LockError(f"not a requirement: {redact(str(error))}", where=line.where) from error


def _packages(line: Line, constraints: Mapping[str, list[Line]]) -> Iterator[Package]:
    """Give what a requirement pins, by itself or through the constraints on its name."""
    if not _NAME_AT_URL.match(line.text) and (line.editable or _is_location(line.text)):
        location, _, marker = line.text.partition(" ;")
        yield _located(line, "", location.strip(), _marker(line, marker.strip()))
        return
    requirement = _requirement(line)
    if requirement.url is not None:
        yield _located(line, requirement.name, requirement.url, requirement.marker)
    else:
        yield from _pinned(line, requirement, constraints.get(normalize(requirement.name), []))


def _is_location(text: str) -> bool:
    return _SCHEME.match(text) is not None or text.startswith(".") or "/" in text.partition(";")[0]


def _marker(line: Line, text: str) -> Marker | None:
    try:
        return parse_marker(text) if text else None
    except ValueError as error:
        raise LockError(f"not a marker: {error}", where=line.where) from error


def _pinned(line: Line, requirement: Requirement, constraints: list[Line]) -> Iterator[Package]:
    """Give the package of a name and version; constraints lend the version or hashes that lack."""
    digests, version = _digests(line, requirement.name), _version(requirement)
    found = False
    for constraint in [line] if digests and version else constraints:
        limit = _requirement(constraint)
        pin, allowed = version or _version(limit), digests or _digests(constraint, limit.name)
        if pin and allowed and _version(limit) in (None, pin):
            found = True
            yield Package(
                name=normalize(requirement.name),
                version=pin,
                marker=both(requirement.marker, limit.marker),
                digests=allowed,
                line=line.number,
            )
    if not found:
        raise _unusable(line, requirement, version)


def _version(requirement: Requirement) -> str | None:
    """Give the one version that a requirement allows, or None."""
    specifiers = list(requirement.specifier)
    pinned = len(specifiers) == 1 and specifiers[0].operator in ("==", "===")
    return specifiers[0].version if pinned and not specifiers[0].version.endswith(".*") else None


def _unusable(line: Line, requirement: Requirement, version: str | None) -> LockError:
    if version is not None:
        return _unhashed(line, f"{normalize(requirement.name)}=={version}")
    return LockError(
        f"{normalize(requirement.name)} is not pinned to one version",
        where=line.where,
        hint="pin versions with `pip-compile --generate-hashes` or `uv pip compile --generate-hashes`",
    )


def _unhashed(line: Line, label: str) -> MissingHashError:
    return MissingHashError(f"{label} has no hash", where=line.where, hint=_HINT)


def _digests(line: Line, name: str) -> tuple[Digest, ...]:
    """Give the digests of a line, any one of which may match. Raises LockError."""
    try:
        digests = tuple(dict.fromkeys(Digest.parse(text) for text in line.values("hash")))
    except ValueError as error:
        raise LockError(f"{name}: not a hash: {error}", where=line.where) from error
    for digest in digests:
        if not digest.is_strong:
            raise MissingHashError(f"{name}: {digest.algorithm} is too weak", where=line.where, hint=_HINT)
    return digests


def _located(line: Line, name: str, location: str, marker: Marker | None) -> Package:
    """Give the package that is not on an index: of a URL, a repository or a folder."""
    url, fragment = split_fragment(location)
    name = name or fragment.get("egg", "").partition("[")[0]
    try:
        source = _source(url, fragment.get("subdirectory"), line.editable)
        if isinstance(source, GitSource):
            name = name or _repository(source)
        package = Package(name=name or redact(url), marker=marker, source=source, line=line.number)
        if isinstance(source, UrlSource):
            package = _downloaded(line, package, name, url, fragment)
        return replace(package, name=normalize(package.name)) if name else package
    except ValueError as error:
        raise LockError(redact(f"{name or location}: {error}"), where=line.where) from error


def _source(url: str, subdirectory: str | None, editable: bool) -> Source:
    if url.startswith("git+"):
        address, commit = split_commit(url.removeprefix("git+"))
        return GitSource(url=address, commit=commit, subdirectory=subdirectory)
    if url.startswith(("http://", "https://")):
        return UrlSource(url=url, subdirectory=subdirectory)
    if _SCHEME.match(url) and not url.startswith("file:"):
        raise ValueError("only http, https, file and git+… URLs can be stocked")
    path = url.removeprefix("file:").removeprefix("//")
    return PathSource(path=path.partition("[")[0] or ".", editable=editable, subdirectory=subdirectory)


def _repository(source: GitSource) -> str:
    """Name what comes from a repository after it, where the line has no name. Raises ValueError."""
    return normalize(source.url.rstrip("/").rpartition("/")[2].removesuffix(".git"))


def _downloaded(line: Line, package: Package, name: str, url: str, fragment: Mapping[str, str]) -> Package:
    """Complete a package of a URL with its file; the URL's own fragment may hold the hash."""
    filename = filename_of(url)
    digests = _digests(line, package.name)
    digests += tuple(
        Digest(key, value) for key, value in fragment.items() if key in ("sha256", "sha384", "sha512")
    )
    if not digests:
        raise _unhashed(line, package.name)
    if len({d.algorithm for d in digests}) < len(set(digests)):
        raise LockError(f"{package.name}: one file has one hash, not several", where=line.where)
    name, version = _named(name, filename)
    return replace(
        package,
        name=name,
        version=version,
        artifacts=(Artifact(filename=filename, digests=tuple(dict.fromkeys(digests)), url=url),),
    )


def _named(name: str, filename: str) -> tuple[str, str | None]:
    """Give name and version of a file; a forge's archive says neither. Raises ValueError."""
    try:
        return name_and_version(filename)
    except ValueError:
        if not name:
            raise
        return name, None
