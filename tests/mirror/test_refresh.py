"""`mirror refresh` as a user runs it: a real index, a real pip's settings, a real devpi."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.index_server import Answer, IndexServer
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "3.0.0")


@pytest.fixture
def click(wheels: Path) -> Path:
    return make_wheel(wheels, "click", "8.1.0")


def stock(project: Project) -> tuple[str | None, set[str]]:
    """What is served, and every file below the store."""
    held = {str(path) for path in project.layout.store.root.rglob("*") if path.is_file()}
    return project.layout.snapshots.current_name(), held


def test_stocks_exactly_what_the_lock_names(project: Project, flask: Path, click: Path, wheels: Path) -> None:
    make_wheel(wheels, "flask", "3.0.1")
    project.lock(flask, click)
    report = project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [a.filename for a in snapshot.artifacts] == [click.name, flask.name]
    assert (report["packages"], report["fetched"], report["changed"]) == (2, 2, True)
    assert all(
        project.layout.store.path(digest(file)).read_bytes() == file.read_bytes() for file in (flask, click)
    )


@pytest.mark.parametrize(
    "server", [{"html": True}, {"sizes": False}, {"digests": False}, {"html": True, "digests": False}]
)
def test_any_kind_of_index_page(
    project: Project, index: IndexServer, flask: Path, server: dict[str, bool]
) -> None:
    vars(index).update(server)
    project.lock(flask)
    assert project.refreshed()["fetched"] == 1
    assert project.refreshed()["changed"] is False


def test_nothing_changed_asks_nobody(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    project.refreshed()
    index.requests.clear()
    report = project.refreshed()
    assert (report["changed"], report["fetched"], index.requests) == (False, 0, [])


def test_a_bump_fetches_only_what_is_new(
    project: Project, index: IndexServer, flask: Path, click: Path, wheels: Path
) -> None:
    project.lock(flask, click)
    project.refreshed()
    index.requests.clear()
    newer = make_wheel(wheels, "flask", "3.0.1")
    project.lock(newer, click)
    report = project.refreshed()
    assert (report["changed"], report["fetched"]) == (True, 1)
    assert [path for path, _ in index.requests] == ["/simple/flask/", f"/files/{newer.name}"]


def test_dry_run_changes_nothing(project: Project, flask: Path) -> None:
    project.lock(flask)
    ended = project.mirror("refresh", "--dry-run")
    assert ended.returncode == 0
    assert f"would fetch {flask.name}" in ended.stderr
    assert stock(project) == (None, set())


def test_old_snapshots_and_what_only_they_reach_are_pruned(
    project: Project, wheels: Path, click: Path
) -> None:
    project.configure(mirror="keep = 2")
    versions = [make_wheel(wheels, "flask", f"3.0.{n}") for n in range(3)]
    for file in versions:
        project.lock(file, click)
        report = project.refreshed()
    assert len(project.layout.snapshots.names()) == 2
    assert report["pruned"]["artifacts"] == 1
    held = set(project.layout.store.digests())
    assert held == {digest(file) for file in (*versions[1:], click)}


def test_a_lost_file_is_fetched_again(project: Project, flask: Path) -> None:
    project.lock(flask)
    name = project.refreshed()["snapshot"]
    project.layout.store.remove(digest(flask))
    report = project.refreshed()
    assert (report["fetched"], report["snapshot"]) == (1, name)


def test_a_manifest_that_cannot_be_read_is_made_again(project: Project, flask: Path) -> None:
    project.lock(flask)
    name = project.refreshed()["snapshot"]
    manifest = project.layout.snapshots.root / f"{name}.json"
    manifest.write_text('{"schema": 0}')
    assert project.refreshed()["fetched"] == 0
    current = project.layout.snapshots.current()
    assert current is not None
    assert [a.name for a in current.artifacts] == ["flask"]


def test_what_builds_need_is_stocked_too(project: Project, wheels: Path) -> None:
    sdist = make_sdist(wheels, "legacy", "1.0")
    make_wheel(wheels, "setuptools", "70.0", requires_python=">=3.8")
    make_wheel(wheels, "wheel", "0.43")
    project.lock(sdist)
    project.refreshed()
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    built = snapshot.chosen(["app:build"], "3.11/linux/amd64/glibc2.36")
    assert [a.name for a in built] == ["setuptools", "wheel"]
    assert [a.name for a in snapshot.chosen(["app"], "3.11/linux/amd64/glibc2.36")] == ["legacy"]


def test_the_code_of_an_sdist_is_never_run(project: Project, wheels: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = f"open({str(trap)!r}, 'w')\n"
    backend = '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    sdist = make_sdist(
        wheels, "evil", "1.0", files={"setup.py": code, "evil.py": code, "pyproject.toml": backend}
    )
    project.lock(sdist)
    project.refreshed()
    assert not trap.exists()


def test_credentials_are_used_and_never_shown(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    project.upstream(index.index.replace("//", "//reader:hunter2@"))
    ended = project.mirror("refresh", "--json")
    assert ended.returncode == 0, ended.stderr
    assert all(headers.get("Authorization") == "Basic cmVhZGVyOmh1bnRlcjI=" for _, headers in index.requests)
    written = [p for p in project.layout.root.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]
    assert written == []
    assert "hunter2" not in ended.stdout + ended.stderr

    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(403)
    project.layout.store.remove(digest(flask))
    refused = project.mirror("refresh")
    assert refused.returncode == 22
    assert "hunter2" not in refused.stdout + refused.stderr


def fails(project: Project, code: int, *words: str) -> str:
    """Run a refresh that must fail with one clear error and leave everything as it was."""
    before = stock(project)
    ended = project.mirror("refresh")
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("error:") == 1
    assert "Traceback" not in ended.stderr
    assert "hint:" in ended.stderr
    for word in words:
        assert word in ended.stderr
    assert stock(project) == before
    return ended.stderr


@pytest.fixture
def stocked(project: Project, click: Path) -> Project:
    """A project whose mirror serves something already."""
    project.lock(click)
    project.refreshed()
    return project


def test_a_requirement_without_a_hash(stocked: Project) -> None:
    (stocked.folder / "requirements.txt").write_text("# locked\nflask==3.0.0\n")
    fails(stocked, 11, "requirements.txt:2", "flask", "--generate-hashes")


def test_a_hash_that_is_not_upstream(stocked: Project, flask: Path) -> None:
    stocked.lock(flask, changed={flask.name: "0" * 64})
    fails(stocked, 20, "flask==3.0.0")


def test_bytes_that_do_not_match(stocked: Project, index: IndexServer, flask: Path) -> None:
    stocked.lock(flask)
    body = bytearray(flask.read_bytes())
    body[40] ^= 1
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(200, bytes(body))
    fails(stocked, 20, flask.name, digest(flask))


def test_bytes_that_do_not_match_from_an_index_without_digests(
    stocked: Project, index: IndexServer, flask: Path
) -> None:
    stocked.lock(flask)
    index.digests = False
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(200, b"x" * len(answer.body or b""))
    fails(stocked, 20, flask.name)


def test_an_unknown_package(stocked: Project, wheels: Path, tmp_path: Path) -> None:
    stocked.lock(make_wheel(tmp_path, "flaskk", "3.0.0"))
    fails(stocked, 21, "flaskk==3.0.0", "no index has a package of this name")


def test_an_unknown_version(stocked: Project, flask: Path, tmp_path: Path) -> None:
    stocked.lock(make_wheel(tmp_path, "flask", "9.9"))
    fails(stocked, 21, "flask==9.9", "3.0.0")


def test_no_file_for_the_target(stocked: Project, wheels: Path) -> None:
    stocked.lock(make_wheel(wheels, "numpy", "2.0", tag="cp312-cp312-win_amd64"))
    fails(stocked, 12, "numpy==2.0", "3.11/linux/amd64", "win_amd64")


@pytest.mark.parametrize("place", ["/simple/flask/", "/files/flask-3.0.0-py3-none-any.whl"])
def test_an_upstream_that_answers_500(stocked: Project, index: IndexServer, flask: Path, place: str) -> None:
    stocked.lock(flask)
    index.faults[place] = lambda answer: answer.send(500)
    fails(stocked, 22, "500")


def test_a_passing_500_is_retried(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    index.faults[f"/files/{flask.name}"] = lambda a: (
        a.send(503) if a.count < 3 else a.send(200, a.body or b"")
    )
    assert project.refreshed()["fetched"] == 1


def cut_in_half(answer: Answer) -> None:
    body = answer.body or b""
    answer.send(200, body[: len(body) // 2], length=len(body))
    answer.cut()


@pytest.mark.parametrize("sizes", [True, False])
def test_an_upstream_that_stops_in_the_middle(
    stocked: Project, index: IndexServer, flask: Path, sizes: bool
) -> None:
    index.sizes = sizes
    stocked.lock(flask)
    index.faults[f"/files/{flask.name}"] = cut_in_half
    fails(stocked, 23, flask.name)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_is_resumed(project: Project, index: IndexServer, flask: Path, ranges: bool) -> None:
    project.lock(flask)
    index.ranges = ranges

    def cut_once(answer: Answer) -> None:
        if answer.count == 1:
            cut_in_half(answer)
        else:
            index._send(answer, answer.body or b"", answer.handler.headers.get("Range"))

    index.faults[f"/files/{flask.name}"] = cut_once
    assert project.refreshed()["fetched"] == 1
    half = len(flask.read_bytes()) // 2
    asked = [headers.get("Range") for path, headers in index.requests if path.startswith("/files/")]
    assert asked == [None, f"bytes={half}-"]


@pytest.mark.parametrize("sizes", [True, False])
def test_an_upstream_that_sends_too_much(
    stocked: Project, index: IndexServer, flask: Path, sizes: bool
) -> None:
    index.sizes = sizes
    stocked.configure(mirror="max_file_size = 20000")
    stocked.lock(flask)
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(
        200, (answer.body or b"") + b"x" * 50000
    )
    fails(stocked, 24, flask.name)


def test_a_page_that_is_none(stocked: Project, index: IndexServer, flask: Path) -> None:
    stocked.lock(flask)
    index.faults["/simple/flask/"] = lambda answer: answer.send(200, b"[1, 2]")
    fails(stocked, 22, "cannot be used")


def test_an_upstream_that_is_not_there(stocked: Project, flask: Path, free_port: int) -> None:
    stocked.lock(flask)
    stocked.upstream("http://127.0.0.1:9/simple")
    fails(stocked, 22, "cannot be reached")


@pytest.mark.root
def test_a_full_disk(project: Project, wheels: Path, click: Path) -> None:
    """The mirror lies on a file system of 2 MB, in a mount namespace of the command's own."""
    noise = random.Random(1).randbytes(3_000_000)
    big = make_wheel(wheels, "big", "1.0", files={"big/data.bin": noise, "big/__init__.py": ""})
    project.lock(click, big)
    script = (
        'mkdir -p .lockstock && mount -t tmpfs -o size=2m tmpfs .lockstock && "$@"; code=$?; '
        "find .lockstock -type f; exit $code"
    )
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    ended = project.mirror("refresh", prefix=prefix)
    assert ended.returncode == 30, ended.stderr
    assert "no space is left" in ended.stderr
    assert ended.stderr.count("error:") == 1
    assert not [line for line in ended.stdout.splitlines() if "incoming" in line or "snapshots" in line]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mirror]\nkep = 3\n", ["lockstock.toml:2", "mirror.kep", "unknown key", "'keep'"]),
        ("[mirror]\nkeep = 'five'\n", ["lockstock.toml:2", "mirror.keep", "must be an integer"]),
        ("[locks.app]\n", ["lockstock.toml:1", "'path' is missing"]),
        ("[targets]\nplatforms = ['windows/amd64']\n", ["lockstock.toml:1", "windows/amd64"]),
        ("[targets]\npython = [3.11]\n", ["lockstock.toml:2", "targets.python[0]", "must be a string"]),
        ("[mirror\n", ["lockstock.toml:1", "not valid TOML"]),
        ("", ["no lock-file is named"]),
    ],
)
def test_a_configuration_that_is_wrong(stocked: Project, text: str, words: list[str]) -> None:
    stocked.config.write_text(text)
    fails(stocked, 3, *words)


def test_a_lock_that_is_not_there(stocked: Project) -> None:
    stocked.config.write_text("[locks.app]\npath = 'nowhere.txt'\n")
    fails(stocked, 10, "nowhere.txt: there is no such file", "look at locks.app in lockstock.toml")


def test_no_configuration(project: Project) -> None:
    project.config.unlink()
    fails(project, 3, "lockstock.toml", "there is no such file")


@pytest.mark.root
def test_a_file_system_that_is_read_only_is_no_fault_of_ours(stocked: Project) -> None:
    script = 'mount --bind .lockstock .lockstock && mount -o remount,ro,bind .lockstock && exec "$@"'
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    for command in ("refresh", "verify"):
        ended = stocked.mirror(command, prefix=prefix)
        assert ended.returncode == 31, ended.stderr
        assert "Read-only file system\nhint: look at the disk and how it is mounted" in ended.stderr


def test_two_runs_never_meet(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    gone_on = project.folder / "go"

    def hold(answer: Answer) -> None:
        while not gone_on.exists():
            time.sleep(0.01)
        answer.send(200, answer.body or b"")

    index.faults["/simple/flask/"] = hold
    first = project.start("refresh")
    while not index.requests:
        time.sleep(0.01)
    fails(project, 32, "another run")
    gone_on.touch()
    assert first.wait() == 0


def test_snapshots_are_listed(project: Project, flask: Path, click: Path) -> None:
    project.lock(flask)
    first = project.refreshed()["snapshot"]
    project.lock(flask, click)
    second = project.refreshed()["snapshot"]
    listed = json.loads(project.mirror("snapshots", "--json").stdout)
    assert [(item["name"], item["current"], item["artifacts"]) for item in listed] == [
        (first, False, 1),
        (second, True, 2),
    ]


def test_equal_inputs_give_equal_snapshots(project: Project, flask: Path, click: Path) -> None:
    project.lock(flask, click)
    project.refreshed()
    current = project.layout.snapshots.current()
    assert current is not None
    subprocess.run(["rm", "-rf", project.layout.root], check=True)
    project.refreshed()
    again = project.layout.snapshots.current()
    assert again is not None
    assert again.to_bytes() == current.to_bytes()


def test_a_version_and_a_help_that_reads_well(project: Project) -> None:
    assert project.mirror("--version").stdout.startswith("lockstock ")
    shown = project.mirror("refresh", "--help").stdout
    assert "Bring the mirror up to the lock-files" in shown
    assert os.linesep in shown


def test_what_the_index_says_of_files_is_kept_and_served(
    project: Project, index: IndexServer, flask: Path
) -> None:
    told = {"yanked": "wrong files", "upload-time": "2026-01-02T03:04:05.678901Z"}
    index.told[flask.name] = told
    project.lock(flask)
    project.refreshed()
    page = json.loads((project.layout.tree / "current/simple/flask/index.json").read_bytes())
    (file,) = page["files"]
    assert {key: file[key] for key in told} == told
    assert file["requires-python"] == ">=3.8"
    index.requests.clear()
    index.told.clear()
    assert project.refreshed()["changed"] is False
    assert index.requests == []


def test_a_lock_that_names_files_gets_told_what_they_say(project: Project, index: IndexServer) -> None:
    """uv.lock tells the upload time, and the wheel itself which Python it is for."""
    wheel = make_wheel(index.folder, "flask", "3.0.0", requires_python=">=3.9")
    (project.folder / "uv.lock").write_text(
        'version = 1\nrequires-python = ">=3.11"\n'
        '[[package]]\nname = "app"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [{ name = "flask" }]\n'
        f'[[package]]\nname = "flask"\nversion = "3.0.0"\nsource = {{ registry = "{index.index}" }}\n'
        f'wheels = [{{ url = "{index.url}/files/{wheel.name}", hash = "sha256:{digest(wheel)}", '
        'upload-time = "2026-01-02T03:04:05Z" }]\n'
    )
    project.config.write_text(project.config.read_text().replace("requirements.txt", "uv.lock"))
    project.refreshed()
    assert [path for path, _ in index.requests] == [f"/files/{wheel.name}"]
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    (file,) = snapshot.artifacts
    assert (file.requires_python, file.upload_time) == (">=3.9", "2026-01-02T03:04:05Z")
