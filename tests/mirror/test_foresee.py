"""What `mirror refresh --dry-run` foresees is what the refresh after it fetches, and nothing of it stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.index_server import IndexServer
from tests.mirror.test_lock_commands import pinned  # noqa: F401 a fixture
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel

BACKEND = '[build-system]\nrequires = ["{}"]\nbuild-backend = "b"\n'
SENTENCE = "what building 1 sdist needs is known only after the fetch"


def foreseen(project: Project) -> dict[str, Any]:
    ended = project.mirror("refresh", "--dry-run", "--json")
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def files(project: Project) -> list[str]:
    """Name all that lies in the mirror, but for what indexes said."""
    root = project.layout.root
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith("cache/"))


@pytest.fixture
def wanted(project: Project, wheels: Path) -> list[str]:
    """A project that needs, beside what it locks, a backend, what that requires, and a tool."""
    sdist = make_sdist(wheels, "legacy", "1.0", files={"pyproject.toml": BACKEND.format("late")})
    needed = [
        make_wheel(wheels, "flask", "3.0.0"),
        make_wheel(wheels, "backend", "1.0", requires=["more"]),
        make_wheel(wheels, "more", "1.0"),
        make_wheel(wheels, "tool", "1.0"),
    ]
    make_wheel(wheels, "late", "1.0")
    project.configure(more='project = "."\n')
    project.config.write_text(project.config.read_text().replace("tools = []", 'tools = ["tool"]'))
    (project.folder / "pyproject.toml").write_text(BACKEND.format("backend"))
    project.lock(needed[0], sdist)
    return sorted(file.name for file in (*needed, sdist))


def test_build_requirements_and_tools_are_foreseen(
    project: Project, index: IndexServer, wanted: list[str]
) -> None:
    told = foreseen(project)
    assert (told["to_fetch"], told["fetched"], told["unread_sdists"]) == (wanted, 5, 1)
    assert files(project) == []
    assert SENTENCE in project.mirror("refresh", "--dry-run").stderr

    assert project.refreshed()["fetched"] == 6, "the sdist asked for one more"
    before = files(project)
    index.requests.clear()
    told = foreseen(project)
    assert (told["to_fetch"], told["artifacts"], told["unread_sdists"]) == ([], 6, 0)
    assert index.requests == [], "all is resolved already"
    assert SENTENCE not in project.mirror("refresh", "--dry-run").stderr
    assert files(project) == before


def test_what_a_held_sdist_needs_is_foreseen(project: Project, wheels: Path, wanted: list[str]) -> None:
    project.refreshed()
    late = wheels / "late-1.0-py3-none-any.whl"
    project.layout.store.remove(digest(late))
    told = foreseen(project)
    assert (told["to_fetch"], told["unread_sdists"]) == ([late.name], 0)
    assert project.refreshed()["fetched"] == 1


def test_what_a_commit_needs_is_foreseen_once_it_is_there(
    pinned: tuple[Project, str],  # noqa: F811 the fixture
    wheels: Path,
) -> None:
    project, _ = pinned
    backend = make_wheel(wheels, "backend", "1.0")
    assert (foreseen(project)["to_fetch"], foreseen(project)["unread_sdists"]) == ([], 1)
    project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    project.layout.store.remove(digest(backend))
    assert (foreseen(project)["to_fetch"], foreseen(project)["unread_sdists"]) == ([backend.name], 0)
    (archive,) = [artifact for artifact in snapshot.artifacts if artifact.filename.endswith(".tar")]
    project.layout.store.remove(archive.sha256)
    assert (foreseen(project)["to_fetch"], foreseen(project)["unread_sdists"]) == ([], 1)


def test_what_cannot_be_resolved_fails_as_a_refresh_does(project: Project, wanted: list[str]) -> None:
    (project.folder / "pyproject.toml").write_text(BACKEND.format("nowhere"))
    ended = project.mirror("refresh", "--dry-run")
    assert "cannot resolve nowhere" in ended.stderr
    assert ended.returncode
    assert files(project) == []
