"""Many locks, one store: patterns, repositories, and locks that fail alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mirror.errors import UpstreamError
from mirror.git import fetch_commit
from mirror.inputs import read_locks
from tests.index_server import IndexServer
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel

TARGET = "3.11/linux/amd64/glibc2.36"


def pin(file: Path) -> str:
    name, version = file.name.removesuffix(".tar.gz").split("-")[:2]
    return f"{name}=={version} --hash=sha256:{digest(file)}\n"


def write(folder: Path, *files: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text("".join(map(pin, files)))


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "3.0.0")


@pytest.fixture
def click(wheels: Path) -> Path:
    return make_wheel(wheels, "click", "8.1.0")


@pytest.fixture
def mono(project: Project, flask: Path, click: Path) -> Project:
    """A monorepo with two services besides the project's own lock."""
    project.lock(click)
    write(project.folder / "services" / "a", flask)
    write(project.folder / "services" / "b", flask, click)
    project.configure(more='[locks.mono]\npath = "services/*/requirements.txt"\n')
    return project


def test_a_pattern_names_each_lock_and_each_file_is_fetched_once(mono: Project, index: IndexServer) -> None:
    report = mono.refreshed()
    snapshot = mono.layout.snapshots.current()
    assert snapshot is not None
    names = [lock.name for lock in snapshot.locks]
    assert names == ["app", "mono/a/requirements.txt", "mono/b/requirements.txt"]
    assert (report["locks"], report["fetched"], len(index.fetched())) == (3, 2, 2)
    assert [a.name for a in snapshot.chosen(["mono"], TARGET)] == ["click", "flask"]
    assert [a.name for a in snapshot.chosen(["mono/a/requirements.txt"], TARGET)] == ["flask"]
    assert mono.refreshed()["changed"] is False


def test_a_lock_that_cannot_be_met_fails_alone(
    mono: Project, index: IndexServer, wheels: Path, tmp_path: Path
) -> None:
    mono.refreshed()
    broken = mono.folder / "services" / "a" / "requirements.txt"
    broken.write_text(pin(make_wheel(tmp_path, "nowhere", "1.0")))
    newer = make_wheel(wheels, "click", "8.2.0")
    mono.lock(newer)
    ended = mono.mirror("refresh")
    assert ended.returncode == 26, ended.stderr
    assert "mono/a/requirements.txt" in ended.stderr
    assert "nowhere==1.0" in ended.stderr
    snapshot = mono.layout.snapshots.current()
    assert snapshot is not None
    assert snapshot.stale == ("mono/a/requirements.txt",)
    assert [a.name for a in snapshot.chosen(["mono/a/requirements.txt"], TARGET)] == ["flask"]
    assert [a.version for a in snapshot.chosen(["app"], TARGET)] == ["8.2.0"]

    again = mono.mirror("refresh")
    assert again.returncode == 26
    assert len(mono.layout.snapshots.names()) == 2
    write(broken.parent, newer)
    assert mono.refreshed()["failed"] == []
    healed = mono.layout.snapshots.current()
    assert healed is not None
    assert healed.stale == ()


def test_a_lock_that_cannot_be_read_fails_alone(mono: Project) -> None:
    (mono.folder / "services" / "b" / "requirements.txt").write_text("flask\n")
    ended = mono.mirror("refresh")
    assert ended.returncode == 26
    snapshot = mono.layout.snapshots.current()
    assert snapshot is not None
    assert snapshot.stale == ()
    assert [lock.name for lock in snapshot.locks] == ["app", "mono/a/requirements.txt"]


def test_a_lock_or_a_project_that_is_gone_fails_alone(mono: Project, wheels: Path, click: Path) -> None:
    other, nowhere = mono.folder / "other.txt", mono.folder / "nowhere"
    other.write_text(pin(click))
    here = '[locks.here]\npath = "requirements.txt"\nproject = "nowhere"\n'
    mono.configure(more=f'[locks.other]\npath = "other.txt"\n{here}')
    ended = mono.mirror("refresh")
    assert ended.returncode == 26
    assert "here: nowhere: there is no such folder\n  look at locks.here in lockstock.toml" in ended.stderr
    nowhere.mkdir()
    (nowhere / "pyproject.toml").write_text('[build-system]\nrequires = ["wheel"]\n')
    make_wheel(wheels, "wheel", "1.0")
    mono.refreshed()
    other.unlink()
    ended = mono.mirror("refresh", "--json")
    assert ended.returncode == 26
    (failed,) = json.loads(ended.stdout)["failed"]
    assert (failed["name"], failed["served"]) == ("other", True)
    assert "other.txt: there is no such file" in ended.stderr
    shown, examined = mono.mirror("status"), mono.mirror("doctor")
    assert (shown.returncode, "other.txt" in shown.stdout) == (0, True)
    assert examined.returncode == 36
    assert "failed   locks: other.txt: there is no such file" in examined.stdout


def test_tools_that_cannot_be_had_are_called_what_people_call_them(project: Project, click: Path) -> None:
    project.lock(click)
    project.config.write_text(project.config.read_text().replace("tools = []", 'tools = ["nowhere-tool"]'))
    ended = project.mirror("refresh")
    assert ended.returncode == 26
    assert "`tools`: cannot resolve nowhere-tool" in ended.stderr
    assert "1 lock could not be met: `tools`\n" in ended.stderr


def test_a_lock_is_stocked_for_the_targets_that_it_is_meant_for(
    mono: Project, wheels: Path, flask: Path
) -> None:
    make_wheel(wheels, "backend", "1.0", requires_python=">=3.12")
    make_wheel(wheels, "wheel", "1.0")
    newer = mono.folder / "newer"
    newer.mkdir()
    (newer / "pyproject.toml").write_text('[build-system]\nrequires = ["backend"]\n')
    (newer / "pylock.toml").write_text(
        'lock-version = "1.0"\ncreated-by = "test"\nrequires-python = ">=3.12"\n'
        f'[[packages]]\nname = "flask"\nversion = "3.0.0"\nwheels = [{{ name = "{flask.name}", '
        f'path = "{flask.name}", hashes = {{ sha256 = "{digest(flask)}" }} }}]\n'
    )
    mono.configure(more='[locks.newer]\npath = "newer/pylock.toml"\nproject = "newer"\n')
    text = mono.config.read_text()
    mono.config.write_text(text.replace('python = ["3.11"]', 'python = ["3.11", "3.12"]'))
    told = f"newer/pylock.toml: the lock is for Python >=3.12, not for {TARGET}; left out"
    assert mono.refreshed("--dry-run")["left_out"] == [told]
    ended = mono.mirror("refresh")
    assert ended.returncode == 0, ended.stderr
    assert told in ended.stderr
    snapshot = mono.layout.snapshots.current()
    assert snapshot is not None
    taken = {(s.lock, s.target.split("/")[0]) for s in snapshot.selections}
    assert taken == {("app", "3.11"), ("app", "3.12"), ("newer", "3.12"), ("newer:build", "3.12")}
    mono.config.write_text(text)
    ended = mono.mirror("refresh")
    assert (ended.returncode, "take it out of [targets]" in ended.stderr) == (26, True)


def test_a_file_that_does_not_come_fails_the_locks_that_need_it(
    mono: Project, index: IndexServer, flask: Path
) -> None:
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(404)
    ended = mono.mirror("refresh")
    assert ended.returncode == 26
    snapshot = mono.layout.snapshots.current()
    assert snapshot is not None
    assert [lock.name for lock in snapshot.locks] == ["app"]


def test_when_no_lock_can_be_met_nothing_changes(mono: Project, index: IndexServer) -> None:
    for name in ("flask", "click"):
        index.faults[f"/simple/{name}/"] = lambda answer: answer.send(404)
    ended = mono.mirror("refresh")
    assert ended.returncode == 21
    assert mono.layout.snapshots.current_name() is None


def test_a_pattern_that_matches_nothing(project: Project, click: Path) -> None:
    project.lock(click)
    project.configure(more='[locks.mono]\npath = "services/*/requirements.txt"\n')
    ended = project.mirror("refresh")
    assert ended.returncode == 26
    assert "no file matches" in ended.stderr


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    ended = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return ended.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, flask: Path, click: Path) -> Path:
    folder = tmp_path / "repository"
    write(folder / "api", flask)
    write(folder / "jobs", click)
    (folder / "api" / "requirements.txt").write_text("-r base.txt\n")
    (folder / "api" / "base.txt").write_text(pin(flask))
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "locks")
    return folder


def from_git(repository: Path, path: str, ref: str = "main") -> str:
    return f'[locks.api]\ngit = "{repository.as_uri()}"\nref = "{ref}"\npath = "{path}"\n'


def test_a_lock_in_a_repository_with_what_it_includes(
    project: Project, repository: Path, click: Path, wheels: Path
) -> None:
    project.lock(click)
    project.configure(more=from_git(repository, "api/requirements.txt"))
    project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [a.name for a in snapshot.chosen(["api"], TARGET)] == ["flask"]
    assert project.refreshed()["changed"] is False

    newer = make_wheel(wheels, "flask", "3.1.0")
    (repository / "api" / "base.txt").write_text(pin(newer))
    git(repository, "commit", "-qam", "bump")
    assert project.refreshed()["changed"] is True
    bumped = project.layout.snapshots.current()
    assert bumped is not None
    assert [a.version for a in bumped.chosen(["api"], TARGET)] == ["3.1.0"]


def test_a_pattern_in_a_repository(project: Project, repository: Path, click: Path) -> None:
    project.lock(click)
    project.configure(more=from_git(repository, "*/requirements.txt"))
    project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [lock.name for lock in snapshot.locks] == [
        "api/api/requirements.txt",
        "api/jobs/requirements.txt",
        "app",
    ]


@pytest.mark.parametrize(("path", "ref"), [("api/requirements.txt", "nowhere"), ("nothing.txt", "main")])
def test_a_ref_or_a_file_that_is_not_there(
    project: Project, repository: Path, click: Path, path: str, ref: str
) -> None:
    project.lock(click)
    project.configure(more=from_git(repository, path, ref))
    ended = project.mirror("refresh")
    assert ended.returncode == 26
    assert "Traceback" not in ended.stderr
    assert path in ended.stderr or ref in ended.stderr


def test_a_commit_that_is_held_outlives_a_repository_that_is_gone(tmp_path: Path, repository: Path) -> None:
    commit, url = git(repository, "rev-parse", "HEAD"), repository.as_uri()
    fetch_commit(tmp_path / "git", url, commit, ("file",))
    repository.rename(tmp_path / "away")
    with pytest.raises(UpstreamError):
        fetch_commit(tmp_path / "git", url, "main", ("file",))
    assert fetch_commit(tmp_path / "git", url, commit, ("file",)).files()
    assert [path.suffix for path in sorted((tmp_path / "git").iterdir())] == [".git", ".lock"]


def test_only_the_commit_itself_is_fetched(tmp_path: Path, repository: Path) -> None:
    for number in range(3):
        git(repository, "commit", "-q", "--allow-empty", "-m", str(number))
    checkout = fetch_commit(tmp_path / "git", repository.as_uri(), "main", ("file",))
    assert git(checkout.folder, "rev-list", "--all", "--count", checkout.commit) == "1"
    assert checkout.commit == git(repository, "rev-parse", "main")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("a:build.txt", "", "may not have a colon"), ("a.txt", "-r 0.txt\n", "includes files too deeply")],
)
def test_a_lock_that_makes_no_sense_fails_alone(
    project: Project, click: Path, name: str, content: str, reason: str
) -> None:
    folder = project.folder / "mono"
    folder.mkdir()
    (folder / name).write_text(content)
    for number in range(1200 if content else 0):
        (folder / f"{number}.txt").write_text(f"-r {number + 1}.txt\n")
    (folder / "1200.txt").write_text("")
    project.lock(click)
    project.configure(more='[locks.mono]\npath = "mono/a*.txt"\n')
    locks, failed = read_locks(project.load(), project.layout)
    assert [lock.spec.name for lock in locks] == ["app"]
    assert {name: reason in error.reason for name, error in failed.items()} == {f"mono/{name}": True}


def test_extras_groups_and_sdists_are_chosen_per_lock(project: Project, wheels: Path) -> None:
    wheel, sdist = make_wheel(wheels, "both", "1.0"), make_sdist(wheels, "both", "1.0")
    make_wheel(wheels, "setuptools", "70.0")
    make_wheel(wheels, "wheel", "0.43")
    project.lock(wheel, sdist)
    project.refreshed()
    project.configure(more='sdists_of = { Both = "always" }\n')
    assert project.refreshed()["changed"] is True
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [a.filename for a in snapshot.chosen(["app"], TARGET)] == [sdist.name]
    project.configure(more='sdists = "sometimes"\n')
    ended = project.mirror("refresh")
    assert ended.returncode == 3
    assert "locks.app.sdists" in ended.stderr
