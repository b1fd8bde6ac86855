"""The user's own project as archive entries, without what does not belong in a sandbox."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from imagegen.archive import Entry

_LEFT_OUT = {
    ".git", ".hg", ".hypothesis", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".svn", ".tox",
    "__pycache__", "node_modules",
}  # fmt: skip
_ENVIRONMENT = "pyvenv.cfg"


def project_entries(project: Path, mirror: Path) -> Iterator[Entry]:
    """Give a project's files and links; caches, environments, history and the mirror stay out."""
    for folder, names, files in os.walk(project):
        here = Path(folder)
        names[:] = sorted(name for name in names if _belongs(here / name, mirror))
        links = [name for name in names if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield from _entry(here / name, (here / name).relative_to(project).as_posix())


def _belongs(folder: Path, mirror: Path) -> bool:
    if folder.name in _LEFT_OUT or (folder / _ENVIRONMENT).exists():
        return False
    return not mirror.exists() or not folder.samefile(mirror)


def _entry(file: Path, path: str) -> Iterator[Entry]:
    mode = file.lstat().st_mode
    if stat.S_ISLNK(mode):
        yield Entry(path=path, link=str(file.readlink()))
    elif stat.S_ISREG(mode):
        yield Entry(path=path, content=file, mode=0o755 if mode & stat.S_IXUSR else 0o644)
