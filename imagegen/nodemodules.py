"""The node_modules of an image, made by the base's own npm in a box without a network.

npm knows best where what of a lock goes; no install script is run. The tree is shared out among
layers by the names of the packages at its top, so a package that changes touches few of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

from imagegen import context
from imagegen.archive import Entry, write_folder
from imagegen.engines.root import BaseRoot
from imagegen.errors import BuildError
from imagegen.live import Progress
from imagegen.plan import HOME, WORKSPACE, ImagePlan, NodeProject
from mirror.store import Store, disk_errors

_FOLDER = "node_modules"
_NPMRC = "npmrc"
_TAIL = 12
# Parts of a tree, if there are so many packages that they are worth their layers.
_PARTS, _MANY = 8, 50


def parts(plan: ImagePlan) -> int:
    """Say among how many layers the tree of a project is shared out; a quarter of the budget at most."""
    return max(1, min(_PARTS, plan.layers // 4)) if len(plan.npm) >= _MANY else 1


class NodeModules:
    """A context manager: the trees are made below `folder` when they are asked for, each once."""

    def __init__(
        self, plan: ImagePlan, store: Store, root: BaseRoot, folder: Path, progress: Progress
    ) -> None:
        self._plan = plan
        self._store = store
        self._root = root
        self._folder = folder
        self._progress = progress
        self._made: dict[str, tuple[Entry, ...]] = {}

    def __enter__(self) -> NodeModules:
        """Remove what a killed run left. Whoever calls is alone with the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was made."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def part(self, project: NodeProject, number: int) -> Iterator[Entry]:
        """Give the entries of one part of a project's tree; the first has the project's own files, too.

        Raises BuildError where npm fails, and UnsupportedError where it cannot be run.
        """
        if project.folder not in self._made:
            self._made[project.folder] = tuple(self._install(project))
        count = parts(self._plan)
        top = PurePosixPath(WORKSPACE.lstrip("/"), project.folder, _FOLDER)
        yield from (
            e for e in self._made[project.folder] if _part(PurePosixPath(e.path), top, count) == number
        )

    def _install(self, project: NodeProject) -> Iterator[Entry]:
        self._progress.step(f"npm ci in {posix(project)} (once for each state of the lock)")
        self._root.prepare("/usr/bin/env")
        work = self._folder / hashlib.sha256(project.folder.encode()).hexdigest()[:12]
        with disk_errors(work):
            top = work / "workspace"
            top.mkdir(parents=True)
            write_folder(_files(project), top)
            # Copies: npm writes to its cache, and the store's own files are not for it.
            write_folder(context.npm_cache(self._plan, self._store), work, link=False)
            (work / _NPMRC).write_bytes(context.npmrc(self._plan))
            ended = self._root.run(
                ["sh", "-c", context.NPM_CI, "-", project.folder],
                {WORKSPACE: top, f"{HOME}/npm": work / "npm"},
                {f"{HOME}/{_NPMRC}": work / _NPMRC},
                {"NPM_CONFIG_GLOBALCONFIG": f"{HOME}/{_NPMRC}"},
            )
        if ended.returncode:
            raise BuildError(
                f"npm cannot install what is locked: {_last(ended.stdout)}",
                where=f"{self._plan.name}: {posix(project)}",
                hint="see that `npm ci` works there, run `mirror refresh`, and build again",
            )
        yield from (*_placed(_files(project)), *_tree(top))


def posix(project: NodeProject) -> str:
    """Name the folder of a project in the image."""
    return str(PurePosixPath(WORKSPACE, project.folder))


def _files(project: NodeProject) -> Sequence[Entry]:
    return [Entry(path=path, content=text.encode()) for path, text in project.files.items()]


def _placed(entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        yield Entry(path=f"{WORKSPACE.lstrip('/')}/{entry.path}", content=entry.content)


def _tree(top: Path) -> Iterator[Entry]:
    """Give what npm made: every node_modules below the workspace, for workspaces of npm have their own."""
    for folder, names, files in os.walk(top):
        names.sort()
        here = Path(folder)
        inside = here.relative_to(top)
        if _FOLDER not in inside.parts:
            continue
        links = [name for name in names if (here / name).is_symlink()]
        if not (files or names):
            yield Entry(path=f"{WORKSPACE.lstrip('/')}/{inside.as_posix()}", folder=True, mode=0o755)
        for name in sorted([*files, *links]):
            yield _entry(here / name, f"{WORKSPACE.lstrip('/')}/{(inside / name).as_posix()}")


def _entry(file: Path, path: str) -> Entry:
    mode = file.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Entry(path=path, link=str(file.readlink()))
    return Entry(path=path, content=file, mode=0o755 if mode & stat.S_IXUSR else 0o644)


def _part(path: PurePosixPath, top: PurePosixPath, count: int) -> int:
    """Say which part has a path: what is no package's, and changes with any of them, is in the first."""
    inside = path.relative_to(top).parts if path.is_relative_to(top) else ()
    if count == 1 or not inside or inside[0].startswith("."):
        return 0
    name = "/".join(inside[: 2 if inside[0].startswith("@") else 1])
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % (count - 1)


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "A complete log" not in line]
    return " / ".join(lines[-_TAIL:])[-600:]
