"""Each credential goes to the place that it was given for, and is shown nowhere."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from pathlib import Path

import pytest
from yarl import URL

from mirror.upstream.auth import UpstreamAuth
from mirror.upstream.fetch import get
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.index_server import Answer, IndexServer
from tests.project import Project
from tests.wheels import digest, make_wheel


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "3.0.0")


def sent(headers: dict[str, str]) -> str:
    """Give the user and password of a request."""
    return b64decode(headers.get("Authorization", "").removeprefix("Basic ")).decode()


def asked(settings: UpstreamSettings, index: IndexServer, paths: list[str], url: str = "") -> dict[str, str]:
    """Ask for these paths, and give what was sent with each."""

    async def run() -> None:
        async with http_client(settings, 2) as client:
            for path in paths:
                await get(client, (url or index.url) + path, 0)

    asyncio.run(run())
    return {path: sent(headers) for path, headers in index.requests}


def test_several_places_on_one_host(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login net password rc\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    host = index.url.removeprefix("http://")
    settings = UpstreamSettings(
        indexes=(f"http://a:1@{host}/team/a/simple", f"http://b:2@{host}/team/ab/simple/"),
        find_links=(f"http://c:3@{host}/links/page.html",),
    )
    expected = {
        "/team/a/simple/flask/": "a:1",
        "/team/a/files/x.whl": "a:1",
        "/team/ab/simple/flask/": "b:2",
        "/team/ab/simple": "b:2",
        "/team/ab/files/x.whl": "b:2",
        "/links/x.whl": "c:3",
    }
    assert asked(settings, index, list(expected)) == expected
    index.requests.clear()
    public = UpstreamSettings(indexes=(f"http://a:1@{host}/private/simple", f"http://{host}/public/simple"))
    expected = {"/private/simple/x/": "a:1", "/public/simple/x/": "net:rc", "/files/x.whl": "a:1"}
    assert asked(public, index, list(expected)) == expected
    index.requests.clear()
    assert asked(public, index, ["/private/simple/x/"], f"http://own:url@{host}") == {
        "/private/simple/x/": "own:url"
    }


def test_a_netrc_that_cannot_be_read_has_none(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert asked(UpstreamSettings(indexes=(index.index,)), index, ["/x"]) == {"/x": ""}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_token_of_npm_goes_in_the_clear_only_to_a_registry_that_is_http_itself(scheme: str) -> None:
    registry = f"{scheme}://registry.example:8080/npm/"
    auth = UpstreamAuth([registry], {"//registry.example:8080/": "Bearer secret"})
    for url in ("https://registry.example:8080/a.tgz", f"{registry}a.tgz"):
        assert auth.header(URL(url)) == "Bearer secret"
    for url in ("http://registry.example:8080/a.tgz", "http://registry.example:8080/npm/a.tgz"):
        assert auth.header(URL(url)) == ("Bearer secret" if scheme == "http" else None)
    for url in ("http://registry.example/a.tgz", "https://other.example:8080/a.tgz"):
        assert auth.header(URL(url)) is None


def leaks(project: Project, secret: str, *shown: str) -> list[str]:
    files = [path for path in project.layout.root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [text for text in shown if secret in text] + [
        str(path) for path in files if secret.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("written", ["me:hunter2", "me:${PRIVATE_TOKEN}", "${PRIVATE_USER}:${PRIVATE_TOKEN}"])
@pytest.mark.parametrize("fault", ["none", "403", "500", "cut", "bytes", "redirect"])
def test_secrets_in_the_urls_of_locks(
    project: Project, index: IndexServer, flask: Path, written: str, fault: str
) -> None:
    project.environment |= {"PRIVATE_USER": "me", "PRIVATE_TOKEN": "hunter2", "PIP_RETRIES": "0"}
    url = f"{index.url.replace('//', f'//{written}@')}/files/{flask.name}"
    lock = f"flask @ {url} --hash=sha256:{digest(flask)}\n"
    (project.folder / "requirements.txt").write_text(lock)

    def cut(answer: Answer) -> None:
        answer.send(200, b"x", length=len(answer.body or b""))
        answer.cut()

    faults = {
        "403": lambda answer: answer.send(403),
        "500": lambda answer: answer.send(500),
        "cut": cut,
        "bytes": lambda answer: answer.send(200, bytes(len(answer.body or b""))),
        "redirect": lambda answer: answer.send(302, headers={"Location": answer.path}),
    }
    if fault in faults:
        index.faults[f"/files/{flask.name}"] = faults[fault]
    ended = project.mirror("refresh", "--json")
    assert (ended.returncode == 0) == (fault == "none"), ended.stderr
    assert {sent(headers) for _, headers in index.requests} == {"me:hunter2"}
    assert leaks(project, "hunter2", ended.stdout, ended.stderr) == []
    if fault == "none":
        others = [project.mirror(*command) for command in (["status", "--json"], ["snapshots"], ["verify"])]
        assert leaks(project, "hunter2", *(o.stdout + o.stderr for o in others)) == []
