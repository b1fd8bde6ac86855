"""Packages that people upload to their own devpi indexes: never touched, and shown where the user says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from mirror.publish import devpi_accounts, devpi_state
from mirror.publish.devpi_server import is_up
from tests.project import Project
from tests.wheels import digest, make_wheel

PASSWORD = "alices-passw0rd"
IN_HOUSE = '\nin_house = ["alice/packages"]\n'


@contextmanager
def serving(project: Project) -> Iterator[str]:
    """Run `mirror serve`, and give its address."""
    process = project.start("serve")
    try:
        deadline = time.monotonic() + 60
        while not is_up(project.layout.devpi, project.port):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{project.port}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def make_index(project: Project, url: str) -> None:
    """Make an account and an index for it, as the administrator does."""
    admin = devpi_accounts.root(project.layout.devpi)
    for path, body in (
        ("/alice", {"password": PASSWORD}),
        ("/alice/packages", {"type": "stage", "bases": "", "volatile": False, "acl_upload": "alice"}),
    ):
        headers = {"Accept": "application/json"}
        answer = httpx.put(f"{url}{path}", json=body, auth=admin, headers=headers, trust_env=False)
        assert answer.status_code in (200, 201), answer.text


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    clean = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("PIP_", "UV_", "TWINE_")) and not key.lower().endswith("_proxy")
    }  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=clean, timeout=120)
    assert not check or ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def upload(url: str, wheel: Path, by: str) -> None:
    """Upload as people do."""
    place = f"{url}/alice/packages/"
    if by == "twine":
        run(sys.executable, "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar",
            f"--repository-url={place}", "--username=alice", f"--password={PASSWORD}",
            str(wheel))  # fmt: skip
    else:
        uv = str(Path(sys.executable).with_name("uv"))
        run(uv, "publish", "--no-config", f"--publish-url={place}", "--username=alice",
            f"--password={PASSWORD}", str(wheel))  # fmt: skip


CLIENTS = {
    "pip": [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "-q"],
    "uv": [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-config", "--no-cache"],
}


def install(client: str, index: str, target: Path, *names: str, check: bool = True) -> set[str]:
    run(*CLIENTS[client], f"--index-url={index}", f"--target={target}", *names, check=check)
    return {path.name for path in target.glob("*.py")}


def held(url: str, index: str, project: str) -> dict[str, str]:
    """Give the files of a project in an index of devpi, as they are downloaded."""
    page = httpx.get(f"{url}/{index}/+simple/{project}/", trust_env=False)
    links = [part.partition("#")[0] for part in page.text.split('href="')[1:]] if page.is_success else []
    answers = {link.rpartition("/")[2]: httpx.get(page.url.join(link), trust_env=False) for link in links}
    return {name: sha256(answer.content).hexdigest() for name, answer in answers.items()}


def stable(client: httpx.Client) -> list[str]:
    return sorted(project["name"] for project in client.get("/lockstock/current/+simple/").json()["projects"])


def test_uploads_of_people_are_never_touched_and_shown_where_the_user_says_so(
    project: Project, wheels: Path, tmp_path: Path
) -> None:
    flask = make_wheel(wheels, "flask", "1.0")
    own = [
        make_wheel(tmp_path / "own", "acme-lib", version, requires=["flask"]) for version in ("1.0", "1.1")
    ]
    files = {wheel.name: digest(wheel) for wheel in own}
    project.configure(mirror="keep = 1")
    project.lock(flask)
    project.refreshed()
    with serving(project) as url:
        make_index(project, url)
        upload(url, own[0], "twine")
        upload(url, own[1], "uv")
        for version in ("2.0", "3.0"):
            project.lock(make_wheel(wheels, "flask", version))
            assert project.refreshed()["changed"]
            assert project.mirror("prune").returncode == 0
            assert held(url, "alice/packages", "acme-lib") == files
            assert held(url, "lockstock/current", "flask").keys() == {f"flask-{version}-py3-none-any.whl"}
        assert project.mirror("publish").returncode == 0
        assert held(url, "alice/packages", "acme-lib") == files
        assert held(url, "lockstock/current", "acme-lib") == {}
        assert httpx.get(f"{url}/simple/acme-lib/", trust_env=False).status_code == 404
    project.configure(mirror="keep = 1" + IN_HOUSE)
    assert project.refreshed()["changed"] is False
    with serving(project) as url:
        wanted = {"acme_lib.py", "flask.py"}
        for client in CLIENTS:
            for name, index in (("devpi", f"{url}/lockstock/current/+simple/"), ("tree", f"{url}/simple/")):
                assert install(client, index, tmp_path / client / name, "acme-lib") == wanted
        assert httpx.get(f"{url}/simple/nowhere/", trust_env=False).status_code == 404
        project.lock(flask)
        assert project.refreshed()["changed"] is True
        assert held(url, "lockstock/current", "acme-lib") == files
        project.configure(mirror="keep = 1")
        project.refreshed()
        assert held(url, "lockstock/current", "acme-lib") == {}
        assert held(url, "alice/packages", "acme-lib") == files


@pytest.mark.parametrize("place", ["alice/nothing", "root/mirror"])
def test_an_index_that_nobody_uploads_to_is_refused(project: Project, wheels: Path, place: str) -> None:
    project.lock(make_wheel(wheels, "flask", "1.0"))
    first = project.refreshed()["snapshot"]
    with devpi_state.writing(project.layout.devpi) as xom, xom.keyfs.write_transaction():
        mirror = {"type": "mirror", "mirror_url": "http://upstream.example/"}
        xom.model.get_user("root").create_stage("mirror", **mirror)
    project.configure(mirror=f'in_house = ["{place}"]')
    project.lock(make_wheel(wheels, "flask", "2.0"))
    ended = project.mirror("refresh")
    assert (ended.returncode, place in ended.stderr, "in_house" in ended.stderr) == (33, True, True)
    assert project.layout.snapshots.current_name() == first
