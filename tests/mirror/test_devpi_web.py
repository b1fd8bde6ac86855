"""devpi-web where it is installed: pages for people behind `mirror serve`, and nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from mirror.publish import devpi, devpi_server, devpi_state
from mirror.serve.views import DEVPI_TOP
from tests.mirror.registry import Registry, free_port
from tests.mirror.stocking import publish_tree, stock
from tests.mirror.test_devpi_server import foreground, wait_until
from tests.mirror.test_in_house import PASSWORD, make_index, serving
from tests.project import Project
from tests.wheels import digest, make_wheel

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
JSON = {"Accept": "application/json"}
HOSTILE = "<script>alert(1)</script> & so on"


def publish(project: Project, *files: Path) -> str:
    layout = project.layout
    name = stock(layout, *files)
    snapshot = layout.snapshots.load(name)
    publish_tree(layout, name, snapshot)
    devpi.publish(layout.devpi, name, snapshot, layout.store)
    return name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"), "flask", "2.0")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Project]:
    """Two snapshots, and an in-house package whose author means harm."""
    project = Project(tmp_path_factory.mktemp("web"), free_port())
    project.config.write_text(f"[mirror]\nport = {project.port}\n")
    wheels = tmp_path_factory.mktemp("wheels")
    publish(project, make_wheel(wheels, "flask", "1.0"), make_wheel(wheels, "gone", "1.0"))
    publish(project, wheel, *(make_wheel(wheels, f"many-{number:02}", "1.0") for number in range(25)))
    with serving(project) as url:
        make_index(project, url)
        own = make_wheel(wheels, "acme-lib", "1.0")
        sent = httpx.post(
            f"{url}/alice/packages/", auth=("alice", PASSWORD), trust_env=False,
            data={":action": "file_upload", "name": "acme-lib", "version": "1.0", "summary": HOSTILE},
            files={"content": (own.name, own.read_bytes())},
        )  # fmt: skip
        assert sent.status_code == 200, sent.text
        yield project


@pytest.fixture
def client(served: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", headers=HTML, trust_env=False) as opened:
        yield opened


def read(client: httpx.Client, path: str) -> str:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=UTF-8"), path
    return answer.text


def found(client: httpx.Client, query: str, page: int = 1) -> list[str]:
    """Give the places of the packages that a search finds."""
    answer = client.get("/+search", params={"query": query, "page": page})
    assert answer.status_code == 200, answer.text
    return re.findall(r'<div class="packagedetails"><span>([^<]*)</span>', answer.text)


def test_people_come_from_the_status_page_to_a_file(
    served: Project, client: httpx.Client, wheel: Path
) -> None:
    name = served.layout.snapshots.current_name()
    assert f'href="{DEVPI_TOP}"' in client.get("/").text
    top = read(client, f"/{DEVPI_TOP}")
    assert f'href="http://127.0.0.1:{served.port}/lockstock/current"' in top
    assert "alice/packages" in top
    style = re.findall(r'href="([^"]+\.css)"', top)[0]
    assert client.get(style).headers["content-type"].startswith("text/css")
    assert f"lockstock/s-{name}" in read(client, "/lockstock/current")
    assert "many-07" in read(client, f"/lockstock/s-{name}")
    page = read(client, f"/lockstock/s-{name}/flask/2.0")
    assert "flask for tests" in page
    links = re.findall(r'href="([^"#]+\.whl)#', page)
    assert {sha256(client.get(link).content).hexdigest() for link in links} == {digest(wheel)}


def test_a_search_finds_once_what_clients_are_shown_now(served: Project, client: httpx.Client) -> None:
    name = served.layout.snapshots.current_name()
    assert found(client, "FLA") == [f"/lockstock/s-{name}/flask"]
    assert found(client, "tests flask") == [f"/lockstock/s-{name}/flask"]
    assert found(client, "acme") == ["/alice/packages/acme-lib"]
    assert found(client, "gone") == found(client, "flask nowhere") == found(client, "") == []


def test_a_search_of_several_pages(client: httpx.Client) -> None:
    pages = [found(client, "many", page) for page in (1, 2, 3, -1)]
    assert [len(page) for page in pages] == [20, 5, 5, 20]
    assert len({*pages[0], *pages[1]}) == 25
    assert pages[2:] == [pages[1], pages[0]]


def test_a_search_shows_the_next_snapshot_at_once(
    served: Project, client: httpx.Client, wheels: Path
) -> None:
    before = served.layout.snapshots.current_name()
    assert before
    name = publish(served, make_wheel(wheels, "quart", "1.0"))
    assert found(client, "quart") == [f"/lockstock/s-{name}/quart"]
    assert found(client, "flask") == []
    snapshot = served.layout.snapshots.load(before)
    devpi.publish(served.layout.devpi, before, snapshot, served.layout.store)
    served.layout.snapshots.switch(before)


def test_what_a_summary_says_is_text(client: httpx.Client) -> None:
    pages = client.get("/+search?query=acme").text, read(client, "/alice/packages/acme-lib/1.0")
    for page in pages:
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page


def test_devpis_own_clients_are_answered_as_without_it(client: httpx.Client) -> None:
    assert client.get("/", headers=JSON).json()["result"].keys() >= {"alice", "lockstock", "root"}
    for path in ("/lockstock", "/lockstock/current"):
        assert client.get(path, headers=JSON).headers["content-type"].startswith("application/json")
    assert client.get("/lockstock/current/+simple/flask/").status_code == 200
    assert client.get("/stranger/own", headers=JSON).status_code == 404
    assert client.put("/stranger", json={"password": "x"}, headers=JSON).status_code == 403


def test_links_lead_to_where_a_proxy_in_front_is(client: httpx.Client) -> None:
    told = {
        "X-Forwarded-Proto": "https", "X-Forwarded-Host": "mirror.example", "X-Forwarded-Prefix": "/stock",
    }  # fmt: skip
    links = re.findall(r'(?:href|src|action)="([^"]*)"', client.get(f"/{DEVPI_TOP}", headers=told).text)
    assert "https://mirror.example/stock/alice/packages" in links
    assert all(link.startswith(("https://mirror.example/stock/", "#")) for link in links), links


def stocked(registry: Registry, folder: Path) -> None:
    wheel = make_wheel(folder, "lockstock-it", "1.0")
    registry.publish("0001-a", registry.stock(wheel, "lockstock-it", "1.0"))


def test_one_state_serves_with_it_and_without_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mirror")
    stocked(registry, tmp_path)
    page = f"http://127.0.0.1:{registry.port}/lockstock/s-0001-a/lockstock-it"
    statuses = []
    for web in (False, True, False):
        server, listener = devpi_server.start_behind(registry.folder, "127.0.0.1", registry.port, web=web)
        listener.close()
        with server:
            url = devpi_server.index_url(server.port)
            assert "lockstock-it" in httpx.get(url, trust_env=False).text
            shown = page.replace(f":{registry.port}", f":{server.port}")
            statuses.append(httpx.get(shown, headers=HTML, trust_env=False).status_code)
    assert statuses == [415, 200, 415]  # which is devpi's own answer to who wants a page
    assert not (devpi_state.server_folder(registry.folder) / ".indices").exists()


def test_a_refresh_does_not_load_it(tmp_path: Path) -> None:
    """It takes longer to load than a small refresh does in all."""
    registry = Registry(tmp_path / "mirror")
    stocked(registry, tmp_path)
    with registry.start() as server:
        page = f"http://127.0.0.1:{server.port}/+search"
        assert httpx.get(page, headers=HTML, trust_env=False).status_code == 404
    script = (
        "import sys; from pathlib import Path; from mirror.publish import devpi, devpi_state\n"
        f"devpi_state.forget(Path({str(registry.folder)!r}))\n"
        f"print(devpi.prune(Path({str(registry.folder)!r}), ()))\n"
        "print('devpi_server.main' in sys.modules, 'devpi_web' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["()", "True False"]


def test_where_it_is_not_installed_nothing_points_to_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mirror")
    stocked(registry, tmp_path)
    process = foreground(registry, before="sys.modules['devpi_web'] = None")
    try:
        wait_until(lambda: devpi_server.is_up(registry.folder, registry.port))
        url = f"http://127.0.0.1:{registry.port}"
        assert DEVPI_TOP not in httpx.get(f"{url}/", headers=HTML, trust_env=False).text
        for path in (DEVPI_TOP, "+search?query=lockstock"):
            assert httpx.get(f"{url}/{path}", headers=HTML, trust_env=False).status_code == 404
        assert registry.projects() == ["lockstock-it"]
    finally:
        process.terminate()
        process.communicate(timeout=30)
