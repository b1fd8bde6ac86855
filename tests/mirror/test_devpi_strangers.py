"""Whoever reaches the port may read, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mirror.snapshot import Stocked
from tests.mirror.registry import Registry
from tests.wheels import make_wheel


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Stocked]]:
    registry = Registry(tmp_path_factory.mktemp("mirror"))
    wheel = make_wheel(registry.root / "wheels", "lockstock-it", "1.0")
    file = registry.stock(wheel, "lockstock-it", "1.0")
    registry.publish("0001-a", file)
    with registry.start():
        yield registry, file


STRANGERS = [
    ("PUT", "/stranger", {"password": "123456789"}),
    ("PUT", "/lockstock/mine", {"type": "stage"}),
    ("PATCH", "/lockstock/current", {"bases": ""}),
    ("DELETE", "/lockstock/current", None),
    ("DELETE", "/lockstock/s-0001-a", None),
    ("DELETE", "/lockstock/s-0001-a/lockstock-it/1.0", None),
    ("POST", "/+login", {"user": "root", "password": ""}),
    ("POST", "/+login", {"user": "lockstock", "password": ""}),
]


@pytest.mark.parametrize(("method", "path", "body"), STRANGERS)
def test_strangers_may_not_change_anything(public, method, path, body):
    registry, file = public
    url = f"http://127.0.0.1:{registry.port}{path}"
    answer = httpx.request(method, url, json=body, headers={"Accept": "application/json"}, trust_env=False)
    assert answer.status_code in (401, 403), answer.text
    assert registry.files("lockstock-it") == {file.filename: file.sha256}


@pytest.mark.parametrize("index", ["current", "s-0001-a"])
@pytest.mark.parametrize("action", ["file_upload", "submit", "doc_upload"])
def test_strangers_may_not_upload(public, index, action):
    registry, file = public
    evil = make_wheel(registry.root / "evil", "lockstock-it", "1.1")
    answer = httpx.post(
        f"http://127.0.0.1:{registry.port}/lockstock/{index}/",
        data={":action": action, "name": "lockstock-it", "version": "1.1", "filetype": "bdist_wheel"},
        files={"content": (evil.name, evil.read_bytes())}, trust_env=False,
    )  # fmt: skip
    assert answer.status_code in (401, 403), answer.text
    assert registry.files("lockstock-it") == {file.filename: file.sha256}


def test_strangers_may_not_attach_test_results(public):
    registry, _ = public
    page = httpx.get(f"{registry.index_url}lockstock-it/", trust_env=False)
    link = page.text.partition('href="')[2].partition("#")[0]
    answer = httpx.post(page.url.join(link), json={"testenvs": {}}, trust_env=False)
    assert answer.status_code in (401, 403), answer.text
