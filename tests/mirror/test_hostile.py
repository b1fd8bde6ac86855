"""Locks, indexes and repositories that mean harm: each ends in one clear error, and nothing of it runs."""

from __future__ import annotations

import asyncio
import io
import json
import lzma
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from lockfiles.model import GitSource, Package
from mirror.buildlock import build_requirements, sdist_pyproject
from mirror.errors import UpstreamError
from mirror.git import fetch_commit
from mirror.gitsource import stock_commit
from mirror.patterns import files_of, matches
from mirror.store import Store
from mirror.upstream import fetch as fetching
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.git_server import serve_git
from tests.index_server import Answer, IndexServer
from tests.mirror.test_many_locks import TARGET, git, pin, write
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "3.0.0")


def refused(project: Project, *codes: int) -> str:
    ended = project.mirror("refresh")
    assert ended.returncode in codes, (ended.returncode, ended.stderr)
    assert "Traceback" not in ended.stderr
    assert "internal error" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch${IFS}TRAP;",
        "ext::sh -c touch% TRAP",
        "file:///etc",
        "-c",
        "https://",
        "ftp://git.example/x",
        "https://u:%00b@git.example/x",
        "https://u:b%0Aquit=1@git.example/x",
        "https://u%0d@git.example/x",
        "https://[git.example/x",
    ],
)
def test_no_program_is_run_by_the_url_of_a_repository(tmp_path: Path, url: str) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(UpstreamError, match="not a repository to fetch from"):
        fetch_commit(tmp_path / "git", url.replace("TRAP", str(trap)), "a" * 40)
    assert not trap.exists()


@pytest.mark.parametrize("ref", ["--upload-pack=x", "main\n"])
def test_no_option_is_given_by_a_ref(tmp_path: Path, ref: str) -> None:
    with pytest.raises(UpstreamError, match="not a repository"):
        fetch_commit(tmp_path / "git", "https://git.example/x", ref)


@pytest.mark.parametrize(
    "item",
    [
        "evil @ http://index.example/evil.tar.gz",
        "--index-url=http://evil.example",
        "setuptools\n--pre",
        "-e .",
        "",
    ],
)
def test_build_requirements_are_names_and_versions_only(item: str) -> None:
    text = f"[build-system]\nrequires = [{json.dumps(item)}]\n"
    with pytest.raises(ValueError, match="require"):
        build_requirements(text)


def test_a_direct_reference_in_an_sdist_does_not_run(
    project: Project, index: IndexServer, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    evil = make_sdist(index.folder, "evil", "1.0", files={"setup.py": f"open({str(trap)!r}, 'w')"})
    requires = f'[build-system]\nrequires = ["evil @ {index.url}/files/{evil.name}"]\n'
    project.lock(make_sdist(index.folder, "carrier", "1.0", files={"pyproject.toml": requires}))
    assert "by URL" in refused(project, 10)
    assert not trap.exists()


def test_tools_are_names_and_versions_only(project: Project, flask: Path) -> None:
    project.lock(flask)
    text = project.config.read_text().replace("tools = []", 'tools = ["--pre"]')
    project.config.write_text(text)
    assert "mirror.tools" in refused(project, 3)


def test_each_lock_is_held_to_its_own_digests(project: Project, index: IndexServer, flask: Path) -> None:
    """Also where the index tells none, and another lock has the right one."""
    index.digests = False
    project.lock(flask, changed={flask.name: "a" * 64})
    write(project.folder / "other", flask)
    project.configure(more='[locks.other]\npath = "other/requirements.txt"\n')
    assert "app" in refused(project, 26)
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [lock.name for lock in snapshot.locks] == ["other"]


def test_two_locks_that_pin_other_bytes_under_one_name(
    project: Project, index: IndexServer, tmp_path: Path
) -> None:
    one, other = (
        make_wheel(index.folder, "flask", "3.0.0"),
        make_wheel(tmp_path / "b", "flask", "3.0.0", requires=["x"]),
    )
    with IndexServer(other.parent) as second:
        project.environment["PIP_EXTRA_INDEX_URL"] = second.index
        project.lock(one)
        write(project.folder / "other", other)
        project.configure(more='[locks.other]\npath = "other/requirements.txt"\n')
        told = refused(project, 26)
    assert "pins other bytes of flask-3.0.0-py3-none-any.whl than app does" in told
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [lock.name for lock in snapshot.locks] == ["app"]


def test_signed_urls_are_asked_for_anew(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    link = f'<a href="../../files/{flask.name}?sig=first#sha256={digest(flask)}">x</a>'
    index.pages["/simple/flask/"] = link.encode()
    index.faults[f"/files/{flask.name}?sig=first"] = lambda answer: answer.send(403)
    refused(project, 22)
    index.pages["/simple/flask/"] = link.replace("sig=first", "sig=second").encode()
    index.faults[f"/files/{flask.name}?sig=second"] = lambda answer: answer.send(200, flask.read_bytes())
    assert project.refreshed()["fetched"] == 1
    assert not [p for p in project.layout.root.rglob("*") if p.is_file() and b"sig=" in p.read_bytes()]


def test_a_file_that_moved_is_looked_for_again(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    project.refreshed()
    project.layout.store.remove(digest(flask))
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(404)
    index.pages["/simple/flask/"] = (
        f'<a href="../../moved/{flask.name}#sha256={digest(flask)}">x</a>'.encode()
    )
    index.pages[f"/moved/{flask.name}"] = flask.read_bytes()
    assert project.refreshed()["fetched"] == 1


def test_a_pin_counts_at_once(project: Project, index: IndexServer, flask: Path, tmp_path: Path) -> None:
    project.lock(flask)
    project.refreshed()
    project.layout.store.remove(digest(flask))
    private = tmp_path / "private"
    private.mkdir()
    (private / flask.name).write_bytes(flask.read_bytes())
    index.requests.clear()
    with IndexServer(private) as own:
        project.configure(more=f'[[upstream]]\nindex = "{own.index}"\npackages = ["flask"]\n')
        assert project.refreshed()["fetched"] == 1
    assert index.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://[bad/flask-3.0.0-py3-none-any.whl",
        "http://℀.example/f",
        f"http://{'a' * 70}.example/f",
        "http://a..b/f",
    ],
)
def test_addresses_that_are_none(index: IndexServer, tmp_path: Path, url: str) -> None:
    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 2) as client:
            await fetching.get(client, url, 0)

    with pytest.raises(UpstreamError):
        asyncio.run(run())


def test_a_redirect_to_an_address_that_is_none(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    place = {"Location": f"http://{'a' * 70}.example/"}
    index.faults["/simple/flask/"] = lambda answer: answer.send(302, headers=place)
    refused(project, 22)


def test_a_page_with_odd_types(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    good = {"filename": flask.name, "url": f"../../files/{flask.name}", "hashes": {"sha256": digest(flask)}}
    odd = [{**good, "requires-python": {"a": 1}}, {**good, "filename": "flask-3.0.0.zip", "url": "\ud800"}]
    body = json.dumps({"files": odd}).encode()

    def answer(one: Answer) -> None:
        one.content_type = "application/vnd.pypi.simple.v1+json"
        one.send(200, body)

    index.faults["/simple/flask/"] = answer
    assert project.refreshed()["fetched"] == 1


def broken_sdists(folder: Path) -> list[Path]:
    xz = folder / "a-1.0.tar.xz"
    xz.write_bytes(lzma.compress(b"x" * 10_000)[:60])
    method = folder / "b-1.0.zip"
    with zipfile.ZipFile(method, "w") as archive:
        archive.writestr("b-1.0/pyproject.toml", "")
    data = bytearray(method.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(mark) + offset] = 99
    method.write_bytes(bytes(data))
    locked = folder / "c-1.0.zip"
    data = bytearray(method.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    locked.write_bytes(bytes(data))
    name = folder / "d-1.0.tar.gz"
    with tarfile.open(name, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 50 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    return [xz, method, locked, name]


def test_archives_that_are_broken_or_bombs(tmp_path: Path) -> None:
    for sdist in broken_sdists(tmp_path):
        with pytest.raises(ValueError, match="archive"):
            sdist_pyproject(sdist, sdist.name)


def test_a_pyproject_of_brackets() -> None:
    with pytest.raises(ValueError):
        build_requirements("a = " + "[" * 20_000)


@pytest.mark.parametrize(
    "line", ["-r a\0b", "-r ../up.txt", "-r /etc/passwd", "-r https://bob:s3cret@host.example/r.txt"]
)
def test_includes_that_lead_elsewhere(project: Project, line: str) -> None:
    (project.folder / "requirements.txt").write_text(f"{line}\n")
    assert "s3cret" not in refused(project, 10)


def test_a_module_of_the_project_is_not_run(project: Project, flask: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name in ("json.py", "sitecustomize.py", "hashlib.py"):
        (project.folder / name).write_text(f"open({str(trap)!r}, 'w')\n")
    project.lock(flask)
    command = [str(Path(os.sys.executable).parent / "mirror"), "refresh"]  # type: ignore[attr-defined]
    ended = subprocess.run(command, **project.options(), check=False)
    assert ended.returncode == 0, ended.stderr
    assert not trap.exists()


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("services/*/requirements.txt", "services/a/requirements.txt", True),
        ("services/*/requirements.txt", "services/a/b/requirements.txt", False),
        ("services/**/requirements.txt", "services/a/b/requirements.txt", True),
        ("services/**/requirements.txt", "services/requirements.txt", True),
        ("locks/*.txt", "vendor/locks/a.txt", False),
        ("**/uv.lock", "uv.lock", True),
        ("a?[bc].txt", "axb.txt", True),
        ("a?[!bc].txt", "axb.txt", False),
        ("a[.txt", "a[.txt", True),
        ("a.b", "axb", False),
        ("**", "x/y", True),
    ],
)
def test_patterns(pattern: str, path: str, is_match: bool) -> None:
    assert matches(pattern, path) is is_match


def test_patterns_mean_the_same_in_folders_and_in_git(project: Project, flask: Path, tmp_path: Path) -> None:
    for place in (
        "services/a",
        "services/b/deep",
        "vendor/services/c",
        "services/.venv/x",
        "services/node_modules/y",
    ):
        write(tmp_path / "tree" / place, flask)
    pattern = tmp_path / "tree" / "services" / "**" / "requirements.txt"
    found = [path.relative_to(tmp_path / "tree").as_posix() for path in files_of(pattern, tmp_path / "none")]
    assert found == ["services/a/requirements.txt", "services/b/deep/requirements.txt"]


def test_a_pattern_does_not_enter_the_mirror_itself(project: Project, index: IndexServer) -> None:
    make_wheel(index.folder, "setuptools", "70.0")
    make_wheel(index.folder, "wheel", "0.43")
    project.lock(make_sdist(index.folder, "legacy", "1.0"))
    project.configure(more='[locks.all]\npath = "**/*requirements.txt"\n')
    names = []
    for _ in range(2):
        project.refreshed()
        snapshot = project.layout.snapshots.current()
        assert snapshot is not None
        names.append([lock.name for lock in snapshot.locks if ":" not in lock.name])
    assert names == [["all/requirements.txt", "app"]] * 2


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("# $Format:%D$\n")
    (folder / ".gitattributes").write_text("* export-subst text eol=crlf\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def archived(tmp_path: Path, name: str, url: str, commit: str, subdirectory: str | None = None) -> str:
    source = GitSource(url=url, commit=commit, subdirectory=subdirectory)
    package = Package(name="library", source=source)
    store = Store(tmp_path / name / "store")
    return stock_commit(tmp_path / name / "git", store, package, source, None, 1 << 20).sha256


def test_an_archive_depends_on_the_commit_alone(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(library, "rev-parse", "HEAD")
    with serve_git(tmp_path) as url:
        first = archived(tmp_path, "one", f"{url}/library", commit)
        git(library, "tag", "v1")
        config = tmp_path / "gitconfig"
        config.write_text("[core]\nautocrlf = true\n[tar]\numask = 0077\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        assert archived(tmp_path, "two", f"{url}/library", commit) == first


def test_an_archive_has_a_limit(library: Path, tmp_path: Path) -> None:
    (library / "big").write_bytes(os.urandom(2 << 20))
    git(library, "add", ".")
    git(library, "commit", "-qm", "big")
    with serve_git(tmp_path) as url, pytest.raises(UpstreamError, match="more than"):
        archived(tmp_path, "one", f"{url}/library", git(library, "rev-parse", "HEAD"))
    assert not list((tmp_path / "one" / "store").rglob("*.tar"))


def test_a_clone_that_a_kill_left_broken_is_made_again(library: Path, tmp_path: Path) -> None:
    with serve_git(tmp_path) as url:
        clone = fetch_commit(tmp_path / "git", f"{url}/library", "HEAD").folder
        (clone / "shallow.lock").touch()
        (clone / "config.lock").touch()
        (library / "more").write_text("x")
        git(library, "add", ".")
        git(library, "commit", "-qm", "two")
        assert fetch_commit(tmp_path / "git", f"{url}/library", "HEAD").commit == git(
            library, "rev-parse", "HEAD"
        )


def test_a_token_for_git_stands_in_no_command_line(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "arguments"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec /usr/bin/git "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    with pytest.raises(UpstreamError) as caught:
        fetch_commit(tmp_path / "git", "http://me:hunter2@127.0.0.1:9/library", "main")
    assert "fetch" in log.read_text()
    assert "hunter2" not in log.read_text() + str(caught.value)


def test_a_name_that_could_not_be_looked_up_is_looked_up_again(
    index: IndexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index.folder, "flask", "3.0")
    tries = []
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def flaky(
        self: asyncio.AbstractEventLoop, host: str, *arguments: object, **options: object
    ) -> object:
        tries.append(host)
        if len(tries) == 1:
            raise OSError(-3, "Temporary failure in name resolution")
        return await real(self, host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", flaky)

    async def run() -> fetching.Page | None:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 2) as client:
            return await fetching.get(client, f"{index.index}/flask/".replace("127.0.0.1", "localhost"), 1)

    assert asyncio.run(run()) is not None
    assert tries[:2] == ["localhost", "localhost"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://x"])
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=("https://index.example",), proxy=proxy), 2):
            raise AssertionError("it was used")

    with pytest.raises(UpstreamError, match="proxy"):
        asyncio.run(run())


def test_a_proxy_does_not_open_the_way_to_private_addresses(
    index: IndexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=("https://93.184.216.34/simple",)), 2) as client:
            await fetching.get(client, f"{index.index}/flask/", 0)

    with pytest.raises(UpstreamError, match="private address"):
        asyncio.run(run())
    assert index.requests == []


def test_a_store_that_is_none_is_told(project: Project, flask: Path) -> None:
    project.lock(flask)
    project.layout.root.mkdir()
    (project.layout.root / "store").write_text("not a folder")
    refused(project, 31)


def test_pins_and_locks_of_one_file_are_stocked_once(
    project: Project, index: IndexServer, flask: Path
) -> None:
    write(project.folder / "a", flask)
    (project.folder / "requirements.txt").write_text(pin(flask).rstrip() + f" --hash=sha256:{'b' * 64}\n")
    project.configure(more='[locks.a]\npath = "a/requirements.txt"\n')
    project.refreshed()
    assert index.fetched() == [flask.name]
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    assert [a.name for a in snapshot.chosen(["a", "app"], TARGET)] == ["flask"]
