"""The lock-files as they are, on disk or in git, and one digest of all that decides what is stocked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lockfiles.errors import LockError, LockstockError
from lockfiles.formats import FORMATS, detect, parse
from lockfiles.model import Ecosystem, Lock, PathSource
from mirror.buildlock import build_requirements
from mirror.config import Config, LockSpec
from mirror.git import REMOTE, Checkout, fetch_commit
from mirror.layout import Layout
from mirror.patterns import files_of, fixed_part, matches
from mirror.snapshot import SCHEMA, LockRecord, Snapshot
from mirror.upstream.settings import without_secrets

_INCLUDE = re.compile(r"(?m)^[ \t]*(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")
# What a lock may say of code that it leaves in the user's checkout; only then is it parsed to find out.
_OWN_CODE = re.compile(r"\b(?:editable|directory|path)\b|(?m:^[ \t]*(?:-e|\.))|file:")
Read = Callable[[str], str]
Failures = dict[str, LockstockError]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockText:
    """A lock-file's text with that of the files it includes.

    `builds` is what building the user's own code asks for, once for each project: the one that is
    configured, and those in the user's checkout that the lock names.
    """

    spec: LockSpec
    text: str
    includes: Mapping[str, str] = field(default_factory=dict)
    builds: tuple[tuple[str, ...], ...] = ()

    @property
    def sha256(self) -> str:
        """The digest of the text, and of what it includes."""
        digest = hashlib.sha256(self.text.encode())
        for name, text in sorted(self.includes.items()):
            digest.update(f"\0{name}\0{text}".encode())
        return digest.hexdigest()

    def record(self, folder: Path) -> LockRecord:
        """Describe the lock for a snapshot, with its path from `folder` or from its repository's top."""
        path = self.spec.path.as_posix() if self.spec.git else os.path.relpath(self.spec.path, folder)
        return LockRecord(
            name=self.spec.name, path=path, format=detect(self.spec.path.name, self.text), sha256=self.sha256
        )

    def parse(self) -> Lock:
        """Read the lock. Raises LockError."""
        return parse(self.spec.path.name, self.text, self.includes.__getitem__)

    @property
    def ecosystem(self) -> Ecosystem:
        """The world whose packages the lock names."""
        return FORMATS[detect(self.spec.path.name, self.text)].ecosystem

    def request(self) -> list[object]:
        """Give all that decides what is stocked for this lock, as JSON can hold it."""
        spec = self.spec
        sdists = [spec.sdists.default, sorted(spec.sdists.packages.items())]
        request: list[object] = [spec.name, self.sha256, spec.extras, spec.groups, sdists]
        request.append(self.builds)
        return [*request, spec.allow_sha1] if spec.allow_sha1 else request


def read_locks(config: Config, layout: Layout) -> tuple[tuple[LockText, ...], Failures]:
    """Read every lock of the configuration; those that cannot be read, by name with the reason."""
    found: list[LockText] = []
    failed: Failures = {}
    for spec in config.locks:
        try:
            expanded = list(_expanded(spec, layout))
        except LockstockError as error:
            failed[spec.name] = error
            continue
        for one, read in expanded:
            try:
                found.append(_read(one, read))
            except LockstockError as error:
                failed[one.name] = error
    return tuple(found), failed


def read_lock(spec: LockSpec) -> LockText:
    """Read one lock from the disk. Raises LockError."""
    return _read(spec, _read_file)


def check_presence(spec: LockSpec) -> None:
    """See that a lock of the disk, and its project, are there. Raises LockError."""
    hint = f"look at locks.{spec.name} in lockstock.toml; paths are relative to it"
    if spec.git is None and not spec.is_pattern and not spec.path.is_file():
        raise LockError("there is no such file", where=str(spec.path), hint=hint)
    if spec.git is None and spec.project and not spec.project.is_dir():
        raise LockError("there is no such folder", where=str(spec.project), hint=hint)


def inputs_digest(config: Config, locks: Iterable[LockText]) -> str:
    """Give one digest for locks, targets, tools and build requirements: equal inputs, equal stock."""
    content = {
        "schema": SCHEMA,
        "targets": [str(target) for target in config.targets],
        "tools": sorted(config.tools),
        "locks": sorted((lock.request() for lock in locks), key=str),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def outdated(config: Config, snapshot: Snapshot, names: Iterable[str]) -> tuple[str, ...]:
    """Give the paths of these locks, as far as they lie on disk, that changed since the snapshot.

    What cannot be read any more has changed.
    """
    stocked = {lock.name: lock.sha256 for lock in snapshot.locks}
    specs = tuple(spec for spec in config.locks if spec.git is None and spec.name in set(names))
    found, failed = read_locks(replace(config, locks=specs), Layout(config.root))
    changed = [str(lock.spec.path) for lock in found if lock.sha256 != stocked.get(lock.spec.name)]
    return (*changed, *(str(spec.path) for spec in specs if spec.name in failed))


def _expanded(spec: LockSpec, layout: Layout) -> Iterator[tuple[LockSpec, Read]]:
    """Give the spec, or one for each file that its pattern matches, with what reads its files.

    Locks of a pattern are named NAME/PATH, with the path from where the pattern begins.
    """
    check_presence(spec)
    checkout = _checkout(spec, layout)
    read = checkout.read if checkout else _read_file
    if not spec.is_pattern:
        yield spec, read
        return
    pattern, top = spec.path.as_posix(), fixed_part(spec.path)
    found = _in_commit(checkout, pattern) if checkout else files_of(spec.path, skipped=layout.root)
    if not found:
        raise LockError(
            f"no file matches {pattern}", where=spec.name, hint="look at `path` in lockstock.toml"
        )
    for path in found:
        name = f"{spec.name}/{path.relative_to(top).as_posix()}"
        yield replace(spec, name=name, path=path), read


def _checkout(spec: LockSpec, layout: Layout) -> Checkout | None:
    """Fetch the commit that a spec names, which may also lie in a repository on this machine."""
    return fetch_commit(layout.git, spec.git.url, spec.git.ref, (*REMOTE, "file")) if spec.git else None


def _in_commit(checkout: Checkout, pattern: str) -> list[Path]:
    return [Path(name) for name in checkout.files() if matches(pattern, name)]


def _read(spec: LockSpec, read: Read) -> LockText:
    if ":" in spec.name:  # which stands before `build` in the names of build locks
        raise LockError("a lock's path may not have a colon", where=str(spec.path), hint="rename it")
    text = _text(spec.path, read)
    folder = spec.path.parent
    includes = {
        name: _text(folder / name, read)
        for name in FORMATS[detect(spec.path.name, text)].beside
        if _is_there(folder / name, read)
    }
    if detect(spec.path.name, text) == "requirements.txt":
        try:
            _collect(text, folder, "", includes, read)
        except RecursionError:
            raise LockError("includes files too deeply", where=str(spec.path)) from None
    lock = LockText(spec=spec, text=text, includes=includes)
    folders = {*([spec.project] if spec.project else []), *_own_projects(lock)}
    return replace(lock, builds=tuple(sorted({_build_requires(folder, read) for folder in folders})))


def _own_projects(lock: LockText) -> Iterator[Path]:
    """Give the folders of the user's checkout that a lock names and that are built from there."""
    if not _OWN_CODE.search(lock.text):
        return
    try:
        packages = lock.parse().packages
    except LockstockError:
        return  # it is told when the lock is read in earnest
    for package in packages:
        source = package.source
        if package.ecosystem is Ecosystem.PYPI and isinstance(source, PathSource) and not source.virtual:
            yield Path(os.path.normpath(lock.spec.path.parent / source.path / (source.subdirectory or "")))


def _collect(text: str, folder: Path, prefix: str, includes: dict[str, str], read: Read) -> None:
    """Read what a requirements file includes, and what that includes, below its folder only."""
    for name in _INCLUDE.findall(text):
        relative = os.path.normpath(Path(prefix) / name)
        if relative in includes:
            continue
        if relative.startswith(("..", "/")) or "://" in name:
            shown = without_secrets(name) if "://" in name else name
            raise LockError(
                f"{shown} lies outside of the lock-file's folder", where=str(folder), hint="move it there"
            )
        includes[relative] = _text(folder / relative, read)
        _collect(includes[relative], folder, Path(relative).parent.as_posix(), includes, read)


def _read_file(path: str) -> str:
    return Path(path).read_bytes().decode("utf-8")  # with its own ends of lines


def _is_there(path: Path, read: Read) -> bool:
    try:
        read(path.as_posix())
    except (OSError, ValueError):
        return False
    return True


def _text(path: Path, read: Read) -> str:
    try:
        return read(path.as_posix())
    except UnicodeDecodeError as error:
        raise LockError("not UTF-8 text", where=str(path)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LockError(f"cannot be read: {reason}", where=str(path)) from error


def _build_requires(project: Path, read: Read) -> tuple[str, ...]:
    """Give what building the project in a folder asks for; a file or nothing is none of ours."""
    file = project / "pyproject.toml"
    try:
        return build_requirements(_text(file, read) if _is_there(file, read) else None)
    except ValueError as error:
        raise LockError(str(error), where=str(file)) from error
