"""`mirror rewrite` and `mirror export-requirements`, and packages that come from git."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.publish import devpi_server
from tests.git_server import serve_git
from tests.index_server import IndexServer
from tests.mirror.test_many_locks import TARGET, git
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel

PYPROJECT = """\
[project]
name = "app"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["flask", "click"]
"""


def uv(project: Project, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    clean |= {"UV_CACHE_DIR": str(project.folder / ".uv-cache"), "UV_PYTHON": sys.executable, **environment}
    command = [str(Path(sys.executable).parent / "uv"), *arguments]
    return subprocess.run(command, cwd=project.folder, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture
def locked(project: Project, index: IndexServer, wheels: Path) -> Project:
    """A project with a uv.lock that uv itself wrote against the upstream."""
    make_wheel(wheels, "flask", "3.0.0", requires=["click"])
    make_wheel(wheels, "click", "8.1.0")
    make_wheel(wheels, "click", "8.1.0", tag="cp311-cp311-win_amd64")
    (project.folder / "pyproject.toml").write_text(PYPROJECT)
    made = uv(project, "lock", UV_DEFAULT_INDEX=index.index)
    assert made.returncode == 0, made.stderr
    config = project.config.read_text().replace("requirements.txt", "uv.lock")
    project.config.write_text(config)
    return project


def test_uv_sync_works_behind_the_mirror_with_a_rewritten_lock(locked: Project, index: IndexServer) -> None:
    locked.refreshed()
    with devpi_server.start(locked.layout.devpi, locked.port) as server:
        ended = locked.mirror("rewrite", "uv.lock", "--index", server.index_url, "-o", "uv.lock")
        assert ended.returncode == 0, ended.stderr
        index.requests.clear()
        synced = uv(locked, "sync", "--frozen", "--no-install-project")
        assert synced.returncode == 0, synced.stderr
        again = uv(locked, "sync", "--locked", "--no-install-project", UV_DEFAULT_INDEX=index.index)
        assert again.returncode == 0, again.stderr
    assert "flask" in synced.stderr
    assert index.requests == []
    text = (locked.folder / "uv.lock").read_text()
    assert "flask-3.0.0-py3-none-any.whl" in text
    assert f"{index.url}/files/click-8.1.0-cp311-cp311-win_amd64.whl" in text


def test_a_rewritten_lock_differs_in_urls_only(locked: Project, index: IndexServer) -> None:
    before = (locked.folder / "uv.lock").read_text()
    same = locked.mirror("rewrite", "uv.lock", "--index", index.index)
    assert same.stdout == before
    for name, end in (("unix.lock", b"\n"), ("windows.lock", b"\r\n")):
        (locked.folder / "uv.lock").write_bytes(before.encode().replace(b"\n", end))
        assert locked.mirror("rewrite", "uv.lock", "--index", index.index, "-o", name).returncode == 0
        assert (locked.folder / name).read_bytes() == before.encode().replace(b"\n", end)


def test_rewrite_of_a_format_without_urls(project: Project, index: IndexServer, wheels: Path) -> None:
    project.lock(make_wheel(wheels, "flask", "3.0.0"))
    ended = project.mirror("rewrite", "requirements.txt", "--index", index.index)
    assert ended.returncode == 10
    assert "carries no file URLs" in ended.stderr


def test_what_is_locked_to_a_url_comes_from_the_mirror_and_from_git_does_not(
    project: Project, index: IndexServer, wheels: Path
) -> None:
    make_wheel(wheels, "flask", "3.0.0")
    made = make_wheel(wheels, "click", "8.1.0")
    (archive := wheels / "v2.0.tar.gz").write_bytes(b"an archive that its name does not tell")
    lines = [
        f"flask @ https://files.example/{(wheels / 'flask-3.0.0-py3-none-any.whl').name}",
        f"plain @ https://files.example/{archive.name}",
    ]
    files = (wheels / "flask-3.0.0-py3-none-any.whl", archive)
    text = "".join(f"{line} --hash=sha256:{digest(f)}\n" for line, f in zip(lines, files, strict=True))
    text += f"click==8.1.0 --hash=sha256:{digest(made)}\ncode @ git+https://git.example/code@{'c' * 40}\n"
    (project.folder / "requirements.txt").write_text(text)
    ended = project.mirror("rewrite", "requirements.txt", "--index", index.index)
    assert ended.returncode == 0, ended.stderr
    (new,) = set(ended.stdout.splitlines()) - set(text.splitlines())
    assert new == lines[0].replace("https://files.example", f"{index.url}/files") + (
        f" --hash=sha256:{digest(files[0])}"
    )
    assert "code is still fetched from its git repository" in ended.stderr
    assert "plain is still fetched from https://files.example/v2.0.tar.gz" in ended.stderr
    assert "flask is" not in ended.stderr


def test_rewrite_while_the_mirror_is_not_served(locked: Project) -> None:
    ended = locked.mirror("rewrite", "uv.lock", "--index", "http://127.0.0.1:1/simple/")

    assert ended.returncode == 22
    assert "start `mirror serve`" in ended.stderr


def test_rewrite_against_an_index_that_has_nothing(locked: Project, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with IndexServer(empty) as other:
        ended = locked.mirror("rewrite", "uv.lock", "--index", other.index)
    assert ended.returncode == 21
    assert "hint:" in ended.stderr


def test_requirements_of_one_target(locked: Project, wheels: Path) -> None:
    ended = locked.mirror("export-requirements", "uv.lock", "--target", "3.12/linux/arm64")
    assert ended.returncode == 0, ended.stderr
    pins = [line for line in ended.stdout.splitlines() if "==" in line]
    assert pins == ["click==8.1.0 \\", "flask==3.0.0 \\"]
    assert f"--hash=sha256:{digest(wheels / 'flask-3.0.0-py3-none-any.whl')}" in ended.stdout
    wrong = locked.mirror("export-requirements", "uv.lock", "--target", "3.12/windows/arm64")
    assert (wrong.returncode, "--target" in wrong.stderr) == (3, True)


def test_requirements_of_a_lock_that_names_no_files(project: Project, wheels: Path) -> None:
    wheel = make_wheel(wheels, "flask", "3.0.0")
    project.lock(wheel, make_sdist(wheels, "flask", "3.0.0"))
    project.config.unlink()
    ended = project.mirror("export-requirements", "requirements.txt", "--target", "3.12/linux/amd64")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("--hash=") == 1
    assert digest(wheel) in ended.stdout


@pytest.fixture
def pinned(project: Project, tmp_path: Path) -> Iterator[tuple[Project, str]]:
    """A project that locks one package from git, and the commit."""
    folder = tmp_path / "library"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["backend"]\nbuild-backend = "backend"\n'
    )
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    commit = git(folder, "rev-parse", "HEAD")
    with serve_git(tmp_path) as url:
        line = f"library @ git+{url}/library@{commit}#subdirectory=sub\n"
        (project.folder / "requirements.txt").write_text(line)
        yield project, commit


def test_a_package_from_git_is_stocked_with_what_it_needs_to_be_built(
    pinned: tuple[Project, str], wheels: Path, tmp_path: Path
) -> None:
    project, commit = pinned
    make_wheel(wheels, "backend", "1.0")
    project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    (archive,) = snapshot.chosen(["app"], TARGET)
    assert archive.filename == f"library-git-{commit}.tar"
    assert archive.tree == git(tmp_path / "library", "rev-parse", f"{commit}^{{tree}}")
    with tarfile.open(project.layout.store.path(archive.sha256)) as tar:
        assert f"library-{commit[:12]}/sub/pyproject.toml" in tar.getnames()
    assert [a.name for a in snapshot.chosen(["app:build"], TARGET)] == ["backend"]
    assert [a.name for a in snapshot.of_ecosystem("pypi")] == ["backend"]  # type: ignore[arg-type]

    (tmp_path / "library").rename(tmp_path / "gone")
    assert project.refreshed()["changed"] is False
    before = snapshot.to_bytes()
    (project.folder / "requirements.txt").open("a").write("# a comment\n")
    project.refreshed()
    again = project.layout.snapshots.current()
    assert again is not None
    assert again.artifacts == snapshot.artifacts
    assert again.to_bytes() != before


def test_a_commit_that_is_not_there(pinned: tuple[Project, str], wheels: Path) -> None:
    project, commit = pinned
    file = project.folder / "requirements.txt"
    file.write_text(file.read_text().replace(commit, "0123456789" * 4))
    ended = project.mirror("refresh")
    assert ended.returncode == 22, ended.stderr
    assert "0123456789" in ended.stderr


def test_code_in_the_users_checkout_is_recorded_and_its_build_stocked(locked: Project, wheels: Path) -> None:
    make_wheel(wheels, "backend", "1.0")
    (locked.folder / "lib").mkdir()
    backend = '[build-system]\nrequires = ["backend"]\nbuild-backend = "b"\n'
    library = f'[project]\nname = "lib"\nversion = "1"\n{backend}'
    (locked.folder / "lib" / "pyproject.toml").write_text(library)
    text = (
        PYPROJECT.replace('"click"]', '"click", "lib"]')
        + '[tool.uv.sources]\nlib = { path = "lib", editable = true }\n'
    )
    (locked.folder / "pyproject.toml").write_text(text)
    made = uv(locked, "lock", UV_DEFAULT_INDEX=locked.environment["PIP_INDEX_URL"])
    assert made.returncode == 0, made.stderr
    locked.refreshed()
    snapshot = locked.layout.snapshots.current()
    assert snapshot is not None
    (selected,) = [s for s in snapshot.selections if s.lock == "app"]
    assert selected.left == ("lib @ lib",)
    assert [a.name for a in snapshot.chosen(["app:build"], TARGET)] == ["backend"]

    (locked.folder / "lib" / "pyproject.toml").write_text(
        library.replace('"backend"]', '"backend", "click"]')
    )
    assert locked.refreshed()["changed"] is True
