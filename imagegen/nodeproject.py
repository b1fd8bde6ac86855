"""What of the user's project npm reads to make node_modules: `install = true` takes it into the plan."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagegen.errors import NotStockedError
from imagegen.live import Progress
from imagegen.plan import WORKSPACE, ImagePlan, NodeProject
from imagegen.spec import ImageSpec
from lockfiles.errors import ConfigError
from mirror.config import Config, LockSpec
from mirror.inputs import read_lock
from mirror.snapshot import Snapshot

_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
_MANIFEST = "package.json"
_SETTINGS = ".npmrc"
# What decides the tree; registries and their secrets stay outside.
_KEPT = re.compile(
    r"(?m)^[ \t]*(?:engine-strict|force|include|install-links|install-strategy|legacy-peer-deps|omit"
    r"|strict-peer-deps)[ \t]*=.*$"
)


def npm_folders(config: Config, spec: ImageSpec) -> tuple[str, ...]:
    """Give the folders in the sandbox that hold the locks of npm itself, as far as they are the project's."""
    return tuple(posixpath.normpath(posixpath.join(WORKSPACE, folder)) for folder, _ in _locks(config, spec))


def read_projects(config: Config, spec: ImageSpec, snapshot: Snapshot) -> tuple[NodeProject, ...]:
    """Read what makes the node_modules of an image that is to have them.

    Raises ConfigError where no lock of npm lies in the project, NotStockedError where one is not what
    the snapshot holds.
    """
    if not spec.install:
        return ()
    found = tuple(_project(config, spec, snapshot, folder, lock) for folder, lock in _locks(config, spec))
    if not found:
        raise ConfigError(
            "`install` needs a lock of npm that lies in the image's `project`",
            where=f"{config.file}: images.{spec.name}",
            hint=f"name a lock whose path ends with {' or '.join(_LOCKS)}, and the folder it lies in as "
            "`project`; node_modules of other tools are made in the sandbox",
        )
    return found


def tell_of_scripts(plan: ImagePlan, progress: Progress) -> None:
    """Name the packages that would have run something when they are installed."""
    names = sorted({name for project in plan.node for name in project.scripts})
    if names:
        progress.step(
            f"note: install scripts are not run, those of {', '.join(names)}; `npm rebuild NAME` runs one "
            "in the sandbox"
        )


def _locks(config: Config, spec: ImageSpec) -> Iterator[tuple[str, LockSpec]]:
    """Give the locks of npm that lie in the project, each with its folder from there."""
    if spec.project is None:
        return
    top = spec.project.resolve()
    for lock in config.locks:
        folder = lock.path.resolve().parent
        on_disk = not (lock.git or lock.is_pattern)
        if lock.name in spec.locks and lock.path.name in _LOCKS and on_disk and folder.is_relative_to(top):
            yield folder.relative_to(top).as_posix(), lock


def _project(config: Config, spec: ImageSpec, snapshot: Snapshot, folder: str, lock: LockSpec) -> NodeProject:
    read = read_lock(lock)
    if read.sha256 not in {record.sha256 for record in snapshot.locks if record.name == lock.name}:
        raise NotStockedError(
            "the lock is not what was stocked, and node_modules is made from it",
            where=str(lock.path),
            hint="run `mirror refresh`",
        )
    content = json.loads(read.text)
    listed = content.get("packages", {})
    files = {posixpath.join(folder, lock.path.name): read.text}
    for place in ("", *(place for place in listed if place and "node_modules" not in place.split("/"))):
        path = posixpath.normpath(posixpath.join(folder, place, _MANIFEST))
        files[path] = _text(spec, config, path)
    assert spec.project is not None  # noqa: S101 - its locks were found in it
    settings = spec.project / folder / _SETTINGS
    if settings.is_file() and (kept := _KEPT.findall(settings.read_text(encoding="utf-8", errors="replace"))):
        files[posixpath.join(folder, _SETTINGS)] = "".join(f"{line.strip()}\n" for line in kept)
    ordered = {posixpath.normpath(path): files[path] for path in sorted(files)}
    return NodeProject(folder=folder, files=ordered, scripts=tuple(sorted(_scripts(listed))))


def _text(spec: ImageSpec, config: Config, path: str) -> str:
    assert spec.project is not None  # noqa: S101 - its locks were found in it
    where = f"{config.file}: images.{spec.name}"
    if path.startswith("../") or Path(path).is_absolute():
        raise ConfigError(f"the lock links to {path}, which is not in the project", where=where)
    try:
        return (spec.project / path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`install` needs {path} of the project: {error}", where=where) from error


def _scripts(listed: Mapping[str, Any]) -> set[str]:
    """Name the packages of which the lock says that they want to run something when they are installed."""
    return {
        str(facts.get("name") or place.rpartition("node_modules/")[2])
        for place, facts in listed.items()
        if isinstance(facts, dict) and facts.get("hasInstallScript")
    }
