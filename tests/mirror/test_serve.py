"""`mirror serve` as clients, people and monitoring meet it, with real pip, uv and devpi."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from mirror.layout import Layout
from mirror.publish import devpi_server, devpi_state
from mirror.serve.negotiate import JSON_TYPE, content_type
from tests.index_server import IndexServer
from tests.mirror.registry import free_port
from tests.mirror.stocking import publish_tree, stock
from tests.project import Project
from tests.wheels import digest, make_sdist, make_wheel


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def publish(layout: Layout, *files: Path) -> str:
    name = stock(layout, *files)
    publish_tree(layout, name, layout.snapshots.load(name))
    return name


def serving(project: Project) -> subprocess.Popen[str]:
    process = project.start("serve")
    wait_until(lambda: process.poll() is not None or devpi_server.is_up(project.layout.devpi, project.port))
    assert process.poll() is None, process.communicate()
    return process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One server for all tests; it starts with an empty mirror."""
    folder = tmp_path_factory.mktemp("served")
    project = Project(folder, free_port())
    project.config.write_text(f"[mirror]\nport = {project.port}\n")
    devpi_state.init(project.layout.devpi)
    process = serving(project)
    assert httpx.get(f"http://127.0.0.1:{project.port}/health", trust_env=False).status_code == 503
    try:
        yield project
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "1.0", requires=["click"])


@pytest.fixture
def stocked(served: Project, wheels: Path, flask: Path) -> Project:
    publish(served.layout, flask, make_wheel(wheels, "click", "1.0"), make_sdist(wheels, "legacy", "1.0"))
    return served


@pytest.fixture
def client(served: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as opened:
        yield opened


def file_url(client: httpx.Client, project: str) -> str:
    page = client.get(f"/simple/{project}/", headers={"Accept": JSON_TYPE})
    return str(page.url.join(page.json()["files"][0]["url"]))


def browse(folder: Path, *arguments: str) -> str:
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    ended = subprocess.run([chromium, *options, f"--user-data-dir={folder / 'profile'}", *arguments],
                           capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/html"),
        ("*/*", "text/html"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        (f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01", JSON_TYPE),
        ("application/vnd.pypi.simple.latest+json", JSON_TYPE),
        (f"text/html;q=0.9, {JSON_TYPE.upper()};q=0.8", "text/html"),
        (f"{JSON_TYPE};q=0", "text/html"),
        (f"{JSON_TYPE};q=nonsense", "text/html"),
        ("application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.v1+html"),
        ("image/png", "text/html"),
    ],
)
def test_what_a_client_likes_most(accept: str, kind: str) -> None:
    assert content_type(accept) == kind


def test_pages_in_every_form(stocked: Project, client: httpx.Client) -> None:
    as_json = client.get("/simple/flask/", headers={"Accept": JSON_TYPE})
    assert (as_json.headers["content-type"], as_json.headers["vary"]) == (JSON_TYPE, "Accept")
    assert as_json.json()["name"] == "flask"
    as_html = client.get("/simple/flask/")
    assert as_html.headers["content-type"] == "text/html"
    assert client.get("/simple/flask/index.json").json() == as_json.json()
    assert client.get("/simple/flask/index.html").text == as_html.text
    assert [p["name"] for p in client.get("/simple/index.json").json()["projects"]] == [
        "click",
        "flask",
        "legacy",
    ]
    again = client.get("/simple/flask/", headers={"If-None-Match": as_html.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/simple/flask/").status_code == 200
    for asked in ("/simple/Flask/", "/simple/flask", "/simple/FLASK"):
        moved = client.get(asked)
        assert (moved.status_code, urljoin(asked, moved.headers["location"])) == (301, "/simple/flask/")


@pytest.mark.parametrize("project", ["flask", "large"])
def test_files_whole_in_part_and_not_again(
    served: Project, client: httpx.Client, flask: Path, wheels: Path, project: str
) -> None:
    """Small ones come from memory, large ones by sendfile; nobody can tell."""
    large = make_wheel(wheels, "large", "1.0", files={"x": random.Random(1).randbytes(400_000)})
    publish(served.layout, flask, large)
    url, data = file_url(client, project), {"flask": flask, "large": large}[project].read_bytes()
    whole = client.get(url)
    assert whole.content == data
    assert whole.headers["cache-control"].endswith("immutable")
    assert whole.headers["accept-ranges"] == "bytes"
    assert client.get(url, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert client.get(url, headers={"If-Match": '"other"'}).status_code == 412
    for wanted, part in (("bytes=5-9", data[5:10]), ("bytes=-7", data[-7:]), ("bytes=100-", data[100:])):
        answer = client.get(url, headers={"range": wanted})
        assert (answer.status_code, answer.content) == (206, part)
    assert client.get(url, headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    assert client.head(url).headers["content-length"] == str(len(data))
    assert f"Name: {project}".encode() in client.get(f"{url}.metadata").content


def test_an_sdist_is_not_taken_for_a_compressed_page(stocked: Project, client: httpx.Client) -> None:
    answer = client.get(file_url(client, "legacy"), headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.content[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    "name", ["..%2f..%2f..%2frun.lock", "%2e%2e", "..", "a%00b", "a%0ab", "%2fetc%2fpasswd", "nothing.whl"]
)
def test_nothing_else_is_served(stocked: Project, client: httpx.Client, name: str) -> None:
    folder = file_url(client, "flask").rpartition("/")[0]
    assert client.get(f"{folder}/{name}").status_code in (400, 404)
    assert client.get(f"/simple/{name}/index.html").status_code in (301, 400, 404)


def test_a_switch_is_seen_at_once_and_old_files_go_on(
    stocked: Project, client: httpx.Client, wheels: Path
) -> None:
    old = file_url(client, "click")
    name = publish(stocked.layout, make_wheel(wheels, "flask", "2.0"))
    assert client.get("/simple/flask/index.json").json()["versions"] == ["2.0"]
    assert client.get("/simple/click/").status_code == 404
    assert client.get(old).status_code == 200
    assert client.get("/health").json() == {"status": "ok", "snapshot": name}


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_real_clients_install(stocked: Project, tmp_path: Path, tool: str) -> None:
    command = {
        "pip": [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "-q"],
        "uv": [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-config", "--no-cache"],
    }[tool]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    index = f"--index-url=http://127.0.0.1:{stocked.port}/simple/"
    ended = subprocess.run([*command, index, f"--target={tmp_path / 'target'}", "flask"],
                           capture_output=True, text=True, env=environment, check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "target").glob("*.py")} == {"flask.py", "click.py"}


def test_metrics_count_what_is_asked_for(stocked: Project, client: httpx.Client) -> None:
    def values() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}

    before = values()
    client.get(f"{file_url(client, 'flask')}.metadata")
    client.get(file_url(client, "flask"))
    client.get("/simple/unheard-of/")
    after = values()
    grown = {key: after[key] - before[key] for key in after if key.startswith("lockstock_requests")}
    assert grown == {
        'lockstock_requests_total{kind="page"}': 2, 'lockstock_requests_total{kind="file"}': 1,
        'lockstock_requests_total{kind="metadata"}': 1, 'lockstock_requests_total{kind="missing"}': 1,
    }  # fmt: skip
    assert after["lockstock_snapshot_files"] == 3


def test_the_status_page_in_a_browser(stocked: Project, client: httpx.Client, tmp_path: Path) -> None:
    """Chromium renders it, and what clients asked for cannot break out of it."""
    client.get("/simple/not-stocked-here/")
    client.get("/simple/%3Cimg%20src=x%20onerror=alert(1)%3E/")
    shot = tmp_path / "page.png"
    browse(tmp_path, f"--screenshot={shot}", "--window-size=800,1200", f"{client.base_url}/")
    shown = browse(tmp_path, "--dump-dom", f"{client.base_url}/")
    name = stocked.layout.snapshots.current_name() or ""
    assert f'<strong id="served">{name}</strong>' in shown
    assert "not-stocked-here" in shown
    assert "<rect" in shown
    assert "<img" not in shown
    assert "<script" not in shown
    assert shot.stat().st_size > 10_000
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_devpi_is_behind_for_uploads_users_and_its_own_urls(
    stocked: Project, client: httpx.Client, wheels: Path, tmp_path: Path
) -> None:
    accept = {"Accept": "application/json"}
    assert client.put("/stranger", json={"password": "x"}, headers=accept).status_code == 403
    password = (stocked.layout.devpi / "root-password").read_text()
    login = client.get("/+api", headers=accept).json()["result"]["login"]
    assert login == f"http://127.0.0.1:{stocked.port}/+login"
    token = client.post(login, json={"user": "root", "password": password}, headers=accept).json()["result"]
    auth = httpx.BasicAuth("root", token["password"])
    if client.get("/root/own", headers=accept).status_code == 404:
        made = client.put("/root/own", json={"bases": []}, headers={**accept, "X-Devpi-Auth": ""}, auth=auth)
        assert made.status_code in (200, 403), made.text
    mine = make_wheel(wheels, "in-house", "1.0", files={"in_house.py": b"x = 1\n" * 50_000})
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    uv = str(Path(sys.executable).with_name("uv"))
    url = f"http://127.0.0.1:{stocked.port}/root/own"
    sent = subprocess.run(
        [uv, "publish", f"--publish-url={url}/", "--username=root", f"--password={password}", str(mine)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir",
         f"--index-url={url}/+simple/", f"--target={tmp_path / 'target'}", "in-house"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "target" / "in_house.py").exists()


def test_a_refresh_while_it_serves_and_a_good_end(project: Project, index: IndexServer, wheels: Path) -> None:
    flask = make_wheel(wheels, "flask", "1.0")
    project.lock(flask)
    with serving(project) as process:
        report = project.refreshed()
        pages = f"http://127.0.0.1:{project.port}/simple/flask/index.json"
        found = httpx.get(pages, trust_env=False).json()["files"]
        assert [file["hashes"]["sha256"] for file in found] == [digest(flask)]
        second = project.mirror("serve")
        assert (second.returncode, "runs already" in second.stderr) == (33, True)
        assert "serving" not in second.stderr
        status = json.loads(project.mirror("status", "--json").stdout)
        assert (status["current"], status["last_run"]["exit_code"]) == (report["snapshot"], 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not devpi_server.is_up(project.layout.devpi, project.port)


def addresses() -> Iterator[tuple[str, str]]:
    """What to listen on, and where a client then finds it; those of IPv6 where this machine has it."""
    yield from (("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"))
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        yield from (("::1", "[::1]"), ("::", "127.0.0.1"), ("::", "[::1]"))


@pytest.mark.parametrize(("host", "named"), addresses())
def test_serve_says_where_once_it_can_be_reached(project: Project, host: str, named: str) -> None:
    project.config.write_text(f"[mirror]\nport = {project.port}\n")
    process = project.start("serve", "--host", host)
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("serving"):
            assert line
        told = "127.0.0.1" if host == "::" else named
        assert line == f"serving http://{told}:{project.port}/simple/; Ctrl-C ends\n"
        answer = httpx.get(f"http://{named}:{project.port}/health", trust_env=False)
        assert answer.json()["status"] == "empty"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_an_address_that_is_taken_is_not_said_to_be_served(project: Project) -> None:
    project.config.write_text(f"[mirror]\nport = {project.port}\n")
    with socket.create_server(("127.0.0.2", project.port)):
        ended = project.mirror("serve", "--host", "127.0.0.2")
    assert (ended.returncode, "cannot listen" in ended.stderr) == (33, True)
    assert "serving" not in ended.stderr
