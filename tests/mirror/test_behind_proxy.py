"""`mirror serve` behind nginx, which shows it below a folder: every address leads back through it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mirror.layout import Layout
from mirror.publish import devpi_state
from mirror.serve.index import Index
from tests.mirror.registry import free_port
from tests.mirror.stocking import hold, stocked
from tests.mirror.test_npm_tree import publish as publish_npm
from tests.mirror.test_npm_tree import stocked as stocked_npm
from tests.mirror.test_serve import serving, wait_until
from tests.npm_registry import make_tarball
from tests.project import Project
from tests.wheels import make_wheel

NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log stderr; {user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /stock/ {{
            proxy_pass http://127.0.0.1:{backend}/;
            proxy_http_version 1.1;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Prefix /stock;
        }}
    }}
}}
"""
TARBALL = make_tarball("@s/a")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A mirror, being served, that stocks Flask and an npm package, and shows what people upload."""
    folder = tmp_path_factory.mktemp("mirror")
    project = Project(folder, free_port())
    project.config.write_text(f"[mirror]\nport = {project.port}\nin_house = ['alice/packages']\n")
    layout = project.layout
    devpi_state.init(layout.devpi)
    flask = make_wheel(folder, "flask", "1.0", files={"flask.py": b""})
    hold(layout, flask)
    publish_npm(layout, stocked(flask), stocked_npm(layout, TARBALL))
    with serving(project) as server:
        yield project
        server.terminate()
        server.communicate()


@pytest.fixture(scope="module")
def outside(mirror: Project) -> Iterator[str]:
    """The URL at which nginx shows it."""
    folder, port = mirror.folder, free_port()
    user = "" if os.getuid() else "user root;"
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, backend=mirror.port, user=user))
    with subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]) as nginx:
        url = f"http://127.0.0.1:{port}/stock"
        wait_until(lambda: nginx.poll() is not None or _answers(url))
        assert nginx.poll() is None
        yield url
        nginx.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize("path", ["Flask", "flask", "Flask/", "FLASK/index.html", "fl%41sk/"])
def test_redirects_stay_below_the_folder(outside: str, path: str) -> None:
    page = httpx.get(f"{outside}/simple/{path}", trust_env=False, follow_redirects=True)
    assert (page.status_code, str(page.url).partition("/simple/")[0]) == (200, outside)
    assert "flask-1.0-py3-none-any.whl" in page.text


@pytest.mark.parametrize(
    "path", ["%2f%2fevil.example", "//evil.example", "javascript:alert(1)", "a%0d%0ab:c"]
)
def test_no_redirect_leads_away(outside: str, path: str) -> None:
    page = httpx.get(f"{outside}/simple/{path}", trust_env=False, follow_redirects=True)
    assert (page.status_code, str(page.url).startswith(f"{outside}/")) == (404, True)


def test_uv_installs(outside: str, tmp_path: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-cache", "--no-config",
         f"--index-url={outside}/simple/", f"--target={tmp_path}", f"--python={sys.executable}", "Flask"],
        capture_output=True, text=True, env=clean, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "flask.py").exists()


def test_npms_tarballs(outside: str) -> None:
    for name in ("@s/a", "@s%2fa"):
        page = httpx.get(f"{outside}/npm/{name}", trust_env=False)
        place = page.json()["versions"]["1.0.0"]["dist"]["tarball"]
        assert place == f"{outside}/npm/@s/a/-/a-1.0.0.tgz"
        assert "X-Forwarded-Prefix" in page.headers["Vary"]
    assert httpx.get(place, trust_env=False).content == TARBALL.data


def test_devpis_own_addresses(outside: str) -> None:
    told = httpx.get(f"{outside}/+api", headers={"Accept": "application/json"}, trust_env=False)
    assert told.json()["result"]["login"] == f"{outside}/+login"


def test_what_people_uploaded_is_looked_for_beside(tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    async def beside(project: str) -> str:
        return f"/lockstock/current/+simple/{project}/"

    async def location() -> str:
        app = web.Application()
        app.add_routes(Index(layout.tree, beside).routes())
        async with TestClient(TestServer(app)) as client:
            answer = await client.get("/simple/own/", allow_redirects=False)
            return answer.headers["Location"]

    publish_npm(layout)
    place = urljoin("https://m.example/stock/simple/own/", asyncio.run(location()))
    assert place == "https://m.example/stock/lockstock/current/+simple/own/"


def test_the_page_for_people_links_to_the_index(outside: str) -> None:
    page = httpx.get(f"{outside}/", trust_env=False)
    assert 'href="simple/"' in page.text
    assert 'href="/' not in page.text


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-Proto": "javascript"}, {"X-Forwarded-Host": 'x","y":"'},
        {"X-Forwarded-Prefix": 'x"'}, {"X-Forwarded-Prefix": "//a?b"},
    ],
)  # fmt: skip
def test_what_cannot_be_in_a_url_is_refused(mirror: Project, header: dict[str, str]) -> None:
    for path in ("npm/@s/a", "root/pypi"):
        answer = httpx.get(f"http://127.0.0.1:{mirror.port}/{path}", headers=header, trust_env=False)
        assert answer.status_code == 400


def test_of_several_proxies_the_one_that_clients_ask(mirror: Project) -> None:
    headers = {"X-Forwarded-Host": "m.example, inner", "X-Forwarded-Proto": "https, http"}
    page = httpx.get(f"http://127.0.0.1:{mirror.port}/npm/@s/a", headers=headers, trust_env=False)
    assert page.json()["versions"]["1.0.0"]["dist"]["tarball"].startswith("https://m.example/npm/@s/a/-/")
