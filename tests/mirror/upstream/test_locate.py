"""Local indexes, find-links, several indexes, and addresses that must not be asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lockfiles.errors import LockstockError
from mirror.errors import UpstreamError
from mirror.upstream.fetch import Page, get
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.index_server import IndexServer
from tests.project import Project
from tests.wheels import digest, make_wheel


def test_a_find_links_folder(project: Project, index: IndexServer, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "links", "tool", "1.0")
    project.lock(wheel)
    project.environment["PIP_FIND_LINKS"] = str(wheel.parent)
    assert project.refreshed()["fetched"] == 1


@pytest.mark.parametrize("digests", [True, False])
def test_find_links_that_is_a_page(
    project: Project, index: IndexServer, tmp_path: Path, digests: bool
) -> None:
    folder = tmp_path / "links"
    wheels = [make_wheel(folder, name, "1.0") for name in ("tool", "toolbox")]
    with IndexServer(folder) as web:
        fragments = [f"#sha256={digest(wheel)}" if digests else "" for wheel in wheels]
        links = (f'<a href="files/{w.name}{f}">x</a>' for w, f in zip(wheels, fragments, strict=True))
        web.pages["/links.html"] = "".join(links).encode()
        project.environment["PIP_FIND_LINKS"] = f"{web.url.replace('//', '//me:pw@')}/links.html"
        project.lock(*wheels)
        assert project.refreshed()["fetched"] == 2
        assert sorted(path for path, _ in web.requests) == [
            *(f"/files/{w.name}" for w in wheels),
            "/links.html",
        ]
        assert all("Authorization" in headers for _, headers in web.requests)


def test_find_links_that_is_a_page_of_this_machine(project: Project, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "links", "tool", "1.0")
    page = tmp_path / "links.html"
    page.write_text(f'<a href="links/{wheel.name}">x</a>')
    project.environment["PIP_FIND_LINKS"] = str(page)
    project.lock(wheel)
    assert project.refreshed()["fetched"] == 1


def test_find_links_that_does_not_answer(project: Project, index: IndexServer, tmp_path: Path) -> None:
    project.lock(make_wheel(tmp_path, "tool", "1.0"), make_wheel(tmp_path, "toolbox", "1.0"))
    index.faults["/links.html"] = lambda answer: answer.send(500)
    project.environment |= {"PIP_FIND_LINKS": f"{index.url}/links.html", "PIP_RETRIES": "0"}
    ended = project.mirror("refresh")
    assert ended.returncode == 22
    assert "links.html: the upstream answers 500" in ended.stderr
    assert [path for path, _ in index.requests].count("/links.html") == 1


def test_an_index_in_a_folder(project: Project, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "local" / "files", "tool", "1.0")
    page = tmp_path / "local" / "simple" / "tool"
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="../../files/{wheel.name}#sha256={digest(wheel)}">tool</a>')
    project.environment["PIP_EXTRA_INDEX_URL"] = (tmp_path / "local" / "simple").as_uri()
    project.lock(wheel)
    assert project.refreshed()["fetched"] == 1


def test_the_next_index_is_asked_for_what_the_first_lacks(
    project: Project, index: IndexServer, tmp_path: Path
) -> None:
    folder = tmp_path / "private"
    wheel, public = make_wheel(folder, "inhouse", "1.0"), make_wheel(index.folder, "flask", "3.0")
    with IndexServer(folder) as private:
        project.environment["PIP_EXTRA_INDEX_URL"] = private.index
        project.lock(wheel, public)
        assert project.refreshed()["fetched"] == 2
        assert [path for path, _ in private.requests] == ["/simple/inhouse/", f"/files/{wheel.name}"]


def test_a_remote_page_cannot_name_files_of_this_machine(project: Project, index: IndexServer) -> None:
    index.pages["/simple/tool/"] = b'<a href="file:///etc/hostname/tool-1.0.tar.gz#sha256=%s">x</a>' % (
        b"0" * 64
    )
    (project.folder / "requirements.txt").write_text(f"tool==1.0 --hash=sha256:{'0' * 64}\n")
    ended = project.mirror("refresh")
    assert ended.returncode == 20
    assert "Traceback" not in ended.stderr


def ask(settings: UpstreamSettings, url: str) -> Page | None:
    async def run() -> Page | None:
        async with http_client(settings, 2) as client:
            return await get(client, url, 0)

    return asyncio.run(run())


def test_a_public_index_cannot_send_us_to_a_private_address(index: IndexServer) -> None:
    settings = UpstreamSettings(indexes=("https://93.184.216.34/simple",))
    with pytest.raises(UpstreamError, match="private address"):
        ask(settings, f"{index.index}/tool/")
    assert index.requests == []


def test_a_redirect_to_another_scheme_is_not_followed(index: IndexServer) -> None:
    index.faults["/simple/tool/"] = lambda answer: answer.send(
        302, headers={"Location": "file:///etc/passwd"}
    )
    with pytest.raises(LockstockError):
        ask(UpstreamSettings(indexes=(index.index,)), f"{index.index}/tool/")


def test_a_redirect_loop_ends(index: IndexServer) -> None:
    index.faults["/simple/tool/"] = lambda answer: answer.send(302, headers={"Location": "/simple/tool/"})
    with pytest.raises(UpstreamError, match="redirect"):
        ask(UpstreamSettings(indexes=(index.index,)), f"{index.index}/tool/")
    assert len(index.requests) < 10


def test_credentials_stay_with_their_host(index: IndexServer, tmp_path: Path) -> None:
    with IndexServer(tmp_path) as other:
        index.faults["/simple/tool/"] = lambda answer: answer.send(
            302, headers={"Location": f"{other.url}/simple/tool/"}
        )
        ask(UpstreamSettings(indexes=(index.index.replace("//", "//me:pw@"),)), f"{index.index}/tool/")
        assert "Authorization" in index.requests[0][1]
        assert "Authorization" not in other.requests[0][1]


def test_a_pinned_name_never_reaches_another_index(
    project: Project, index: IndexServer, tmp_path: Path
) -> None:
    """Dependency confusion: the public index has a package of the private name, with the locked digest."""
    impostor = make_wheel(index.folder, "acme-core", "1.0")
    own = make_wheel(tmp_path / "private", "acme-core", "1.0", files={"acme_core.py": "own = True"})
    public = make_wheel(index.folder, "flask", "3.0")
    with IndexServer(own.parent) as private:
        project.configure(more=f'[[upstream]]\nindex = "{private.index}"\npackages = ["acme-*"]\n')
        project.lock(impostor, public)
        assert project.mirror("refresh").returncode == 20
        project.lock(own, public)
        project.refreshed()
        assert {path for path, _ in private.requests} == {"/simple/acme-core/", f"/files/{own.name}"}
    assert not [path for path, _ in index.requests if "acme" in path]


def test_an_upstream_of_a_wrong_kind(project: Project, index: IndexServer) -> None:
    project.lock(make_wheel(index.folder, "flask", "3.0"))
    project.configure(more='[[upstream]]\nindex = "ftp://index.example"\n')
    ended = project.mirror("refresh")
    assert ended.returncode == 3
    assert "upstream[0].index" in ended.stderr


def test_what_has_become_of_stocked_files(project: Project, index: IndexServer) -> None:
    names = ("stays", "vanished", "changed", "yanked")
    files = {name: make_wheel(index.folder, name, "1.0") for name in names}
    project.lock(*files.values())
    project.refreshed()
    assert json.loads(project.mirror("upstream", "--json").stdout) == []

    files["vanished"].unlink()
    make_wheel(index.folder, "changed", "1.0", files={"changed.py": "other = True"})
    link = (
        f'<a href="../../files/{files["yanked"].name}#sha256={digest(files["yanked"])}" data-yanked="">x</a>'
    )
    index.pages["/simple/yanked/"] = link.encode()
    told = json.loads(project.mirror("upstream", "--json").stdout)
    assert {change["name"]: change["what"] for change in told} == {name: name for name in names[1:]}
    assert "3 changes upstream among 4 stocked files" in project.mirror("upstream").stderr
    assert project.refreshed()["changed"] is False
