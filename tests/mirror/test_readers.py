"""A private mirror: only accounts of devpi read anything of it."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from mirror.publish import devpi_accounts
from tests.index_server import IndexServer
from tests.mirror.test_in_house import IN_HOUSE, install, make_index, serving, upload
from tests.project import Project
from tests.wheels import digest, make_wheel


@dataclass
class Private:
    """A private mirror that is served, and a reader of it."""

    project: Project
    url: str
    wheel: Path
    token: str

    @property
    def reader(self) -> tuple[str, str]:
        return "ci", self.token

    def get(self, path: str, auth: tuple[str, str] | None = None, **headers: str) -> int:
        return httpx.get(f"{self.url}{path}", auth=auth, headers=headers, trust_env=False).status_code


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    folder, wheels = tmp_path_factory.mktemp("private"), tmp_path_factory.mktemp("wheels")
    wheel = make_wheel(wheels, "flask", "1.0")
    with IndexServer(wheels) as index:
        from tests.mirror.registry import free_port

        project = Project(folder, free_port())
        project.configure(mirror="private = true" + IN_HOUSE)
        project.upstream(index.index)
        project.lock(wheel)
        project.configure(mirror="private = true")
        project.refreshed()
        ended = project.mirror("reader", "add", "ci")
        assert ended.returncode == 0, ended.stderr
        with serving(project) as url:
            yield Private(project, url, wheel, ended.stdout.strip())


def places(private: Private) -> list[str]:
    held = digest(private.wheel)
    name = private.project.layout.snapshots.current_name()
    return [
        "/", "/simple/", "/simple/flask/", "/simple/flask/index.json", "/lockstock/current/+simple/flask/",
        f"/files/{held[:2]}/{held[2:]}/{private.wheel.name}", "/lockstock/current", "/root",
        f"/lockstock/s-{name}/+f/{held[:3]}/{held[3:16]}/{private.wheel.name}",
        f"/lockstock/s-{name}/flask/1.0",
    ]  # fmt: skip


def test_strangers_read_nothing(private: Private) -> None:
    wrong = base64.b64encode(b"ci:guess").decode()
    for path in (*places(private), "/npm/left-pad", "/simple/nowhere/", "/+changelog/0"):
        assert private.get(path) == 401, path
        assert private.get(path, ("ci", "guess")) == 401, path
        assert private.get(path, ("lockstock", "")) == 401, path
        assert private.get(path, **{"X-Devpi-Auth": wrong}) == 401, path
        assert private.get(path, **{"Authorization": "Bearer x", "X-Devpi-Replica-Uuid": "y"}) in (401, 403)
    assert private.get("/health") == 200
    assert "flask" not in httpx.get(f"{private.url}/metrics", trust_env=False).text


def test_a_request_with_a_whole_url_is_as_one_with_its_path(private: Private) -> None:
    def asked(target: str) -> int:
        connection = HTTPConnection("127.0.0.1", private.project.port)
        connection.request("GET", target, headers={"Accept": "application/json"})
        return connection.getresponse().status

    for place in ("", "http://mirror.example"):
        assert [asked(f"{place}{path}") for path in ("/+api", "/health", "/lockstock", "/simple/")] == [
            200, 200, 401, 401,
        ]  # fmt: skip
    for path in ("/+api/../lockstock", "/+api%2F..%2Flockstock", "//+api", "/+api;/lockstock"):
        assert asked(path) == 401, path


def test_strangers_see_no_page_of_devpis(private: Private) -> None:
    name = private.project.layout.snapshots.current_name()
    html = {"Accept": "text/html"}
    url = f"{private.url}/+devpi"
    page = httpx.get(url, auth=private.reader, headers=html, trust_env=False)
    style = re.findall(r'href="([^"]+[.]css)"', page.text)[0].removeprefix(private.url)
    for path in (
        "/+devpi", "/+search?query=flask", "/+searchhelp", "/+status", "/lockstock", "/lockstock/current",
        f"/lockstock/s-{name}", f"/lockstock/s-{name}/flask", f"/lockstock/s-{name}/flask/1.0", style,
    ):  # fmt: skip
        assert private.get(path, **html) == 401, path
        assert private.get(path, private.reader, **html) == 200, path
    asked = httpx.get(url, headers=html, trust_env=False)
    assert (asked.headers["WWW-Authenticate"], "flask" in asked.text) == ('Basic realm="lockstock"', False)


def test_a_reader_reads_everything_and_changes_nothing(private: Private) -> None:
    for path in places(private):
        assert private.get(path, private.reader, Accept="application/json") == 200, path
        head = httpx.head(f"{private.url}{path}", auth=private.reader, trust_env=False)
        assert (head.status_code, head.content) == (200, b""), path
    for method, path in (("PUT", "/ci/own"), ("PUT", "/other"), ("PATCH", "/lockstock/current"),
                         ("DELETE", "/lockstock/current")):  # fmt: skip
        answer = httpx.request(method, f"{private.url}{path}", json={"password": "123456789"},
                               auth=private.reader, headers={"Accept": "application/json"},
                               trust_env=False)  # fmt: skip
        assert answer.status_code in (401, 403), (method, path)


def test_no_shared_cache_keeps_an_answer(private: Private) -> None:
    for path in places(private):
        answer = httpx.get(f"{private.url}{path}", auth=private.reader, trust_env=False)
        policy = answer.headers["Cache-Control"].split(", ")
        assert policy[0] == "private", path
        assert "public" not in policy, path
    assert "immutable" in httpx.head(f"{private.url}{places(private)[5]}", auth=private.reader,
                                     trust_env=False).headers["Cache-Control"]  # fmt: skip


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_clients_install_with_a_token_and_not_without(private: Private, tmp_path: Path, client: str) -> None:
    index = f"{private.url.replace('//', f'//ci:{private.token}@')}/simple/"
    assert install(client, index, tmp_path / "a", "flask") == {"flask.py"}
    assert install(client, f"{private.url}/simple/", tmp_path / "b", "flask", check=False) == set()


def test_people_upload_to_a_private_mirror(private: Private, tmp_path: Path) -> None:
    make_index(private.project, private.url)
    upload(private.url, make_wheel(tmp_path, "acme-lib", "1.0"), "twine")
    assert private.get("/alice/packages/+simple/acme-lib/") == 401
    assert private.get("/alice/packages/+simple/acme-lib/", private.reader) == 200


def test_a_refresh_checks_a_private_index_that_is_served(private: Private) -> None:
    project = private.project
    project.lock(make_wheel(private.wheel.parent, "flask", "2.0"))
    assert project.refreshed()["changed"] is True
    page = httpx.get(f"{private.url}/simple/flask/", auth=private.reader, trust_env=False).text
    assert "flask-2.0" in page


def test_tokens_are_changed_and_taken_back(private: Private) -> None:
    def mirror(*arguments: str) -> tuple[int, str]:
        ended = private.project.mirror("reader", *arguments)
        return ended.returncode, ended.stdout + ended.stderr

    code, first = mirror("add", "night")
    token = first.splitlines()[0]
    assert code == 0
    assert private.get("/simple/", ("night", token)) == 200
    assert json.loads(mirror("list", "--json")[1]) == ["ci", "night"]
    login = httpx.post(f"{private.url}/+login", json={"user": "night", "password": token}, trust_env=False)
    session = login.json()["result"]["password"]
    sent = base64.b64encode(f"night:{session}".encode()).decode()
    assert private.get("/simple/", ("night", session)) == 401  # it would be good for hours
    assert private.get("/simple/", **{"X-Devpi-Auth": sent}) == 401
    second = mirror("add", "night")[1].splitlines()[0]
    assert second != token
    assert private.get("/simple/", ("night", second)) == 200
    assert mirror("remove", "night")[0] == 0
    assert private.get("/simple/flask/", ("night", second + "x")) == 401
    assert mirror("list")[1].split() == ["ci"]
    for name in ("root", "lockstock", "../x", "Upper", ""):
        assert mirror("add", name)[0] == 33, name
    assert mirror("remove", "nobody")[0] == 33
    folder = private.project.layout.devpi
    kept = [path for path in folder.rglob("*") if path.is_file() and second.encode() in path.read_bytes()]
    assert kept == []
    assert devpi_accounts.root(folder)[0] == "root"


def test_a_removed_reader_is_forgotten_when_its_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from mirror.serve import readers
    from mirror.serve.proxy import Proxy

    known = {"ci"}

    async def api(request: web.Request) -> web.Response:
        user = base64.b64decode(request.headers["Authorization"].split()[1]).decode().partition(":")[0]
        status = "ok" if user in known else "nouser"
        return web.json_response({"result": {"authstatus": [status, user, []]}})

    async def user(_: web.Request) -> web.Response:
        return web.json_response({"result": {"title": devpi_accounts.READER}})

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="here")

    async def ask() -> list[int]:
        devpi = web.Application()
        devpi.router.add_get("/+api", api)
        devpi.router.add_get("/ci", user)
        async with TestServer(devpi) as backend:
            proxy = Proxy(backend.port or 0)
            app = web.Application(middlewares=[readers.Readers(proxy).middleware()])
            app.cleanup_ctx.append(proxy.run)
            app.router.add_get("/simple/", page)
            header = {"Authorization": f"Basic {base64.b64encode(b'ci:x').decode()}"}
            async with TestClient(TestServer(app)) as client:
                found = [(await client.get("/simple/", headers=header)).status]
                known.clear()
                found.append((await client.get("/simple/", headers=header)).status)
                monkeypatch.setattr(readers.time, "monotonic", lambda: sys.maxsize)
                found.append((await client.get("/simple/", headers=header)).status)
        return found

    assert asyncio.run(ask()) == [200, 200, 401]
