"""The lock-files as they are on disk, and one digest of all that decides what a refresh stocks."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lockfiles.errors import LockError
from lockfiles.formats import detect, parse
from lockfiles.model import Lock
from mirror.buildlock import build_requirements
from mirror.config import Config, LockSpec
from mirror.snapshot import SCHEMA, LockRecord

_INCLUDE = re.compile(r"(?m)^\s*(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockText:
    """A lock-file's text with that of the files it includes, and what its project's build asks for."""

    spec: LockSpec
    text: str
    includes: Mapping[str, str] = field(default_factory=dict)
    project_requires: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The digest of the text, and of what it includes."""
        digest = hashlib.sha256(self.text.encode())
        for name, text in sorted(self.includes.items()):
            digest.update(f"\0{name}\0{text}".encode())
        return digest.hexdigest()

    def record(self, folder: Path) -> LockRecord:
        """Describe the lock for a snapshot, with its path from `folder`."""
        path = os.path.relpath(self.spec.path, folder)
        return LockRecord(
            name=self.spec.name, path=path, format=detect(self.spec.path.name, self.text), sha256=self.sha256
        )

    def parse(self) -> Lock:
        """Read the lock. Raises LockError."""
        return parse(self.spec.path.name, self.text, self.includes.__getitem__)


def read_locks(config: Config) -> tuple[LockText, ...]:
    """Read every lock of the configuration. Raises LockError."""
    return tuple(_read(spec) for spec in config.locks)


def inputs_digest(config: Config, locks: Iterable[LockText]) -> str:
    """Give one digest for locks, targets, tools and build requirements: equal inputs, equal stock."""
    content = {
        "schema": SCHEMA,
        "targets": [str(target) for target in config.targets],
        "tools": sorted(config.tools),
        "locks": sorted([lock.spec.name, lock.sha256, *lock.project_requires] for lock in locks),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(spec: LockSpec) -> LockText:
    text = _text(spec.path)
    includes: dict[str, str] = {}
    _collect(text, spec.path.parent, "", includes)
    return LockText(spec=spec, text=text, includes=includes, project_requires=_project_requires(spec.project))


def _collect(text: str, folder: Path, prefix: str, includes: dict[str, str]) -> None:
    """Read what a requirements file includes, and what that includes, below its folder only."""
    for name in _INCLUDE.findall(text):
        relative = (Path(prefix) / name).as_posix()
        if relative in includes:
            continue
        path = folder / relative
        if not path.resolve().is_relative_to(folder.resolve()):
            raise LockError(
                f"{name} lies outside of the lock-file's folder", where=str(folder), hint="move it there"
            )
        includes[relative] = _text(path)
        _collect(includes[relative], folder, Path(relative).parent.as_posix(), includes)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LockError("not UTF-8 text", where=str(path)) from error
    except OSError as error:
        raise LockError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _project_requires(project: Path | None) -> tuple[str, ...]:
    if project is None:
        return ()
    file = project / "pyproject.toml"
    try:
        return build_requirements(_text(file) if file.exists() else None)
    except ValueError as error:
        raise LockError(str(error), where=str(file)) from error
