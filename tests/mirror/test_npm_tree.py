"""The registry as a static tree, and as `mirror serve` shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yarl
from aiohttp.test_utils import TestClient, TestServer

from mirror.layout import Layout
from mirror.publish import npm
from mirror.serve.app import application
from mirror.snapshot import Snapshot, Stocked
from tests.mirror.stocking import publish_tree
from tests.npm_registry import Tarball, make_tarball

URL = "https://mirror.example"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "mirror")


def stocked(layout: Layout, tarball: Tarball, url: str = "") -> Stocked:
    path = layout.store.path(tarball.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tarball.data)
    return Stocked(
        ecosystem="npm", name=tarball.name, version=tarball.version, filename=tarball.filename,
        sha256=tarball.sha256, size=len(tarball.data), url=url or f"https://r.example{tarball.path}",
    )  # fmt: skip


def publish(layout: Layout, *files: Stocked, url: str = URL) -> Path:
    snapshot = Snapshot.of([], files, [])
    name = layout.snapshots.add(snapshot)
    publish_tree(layout, name, snapshot, url)
    layout.snapshots.switch(name)
    return layout.tree / "current" / "npm"


def read(file: Path) -> dict[str, object]:
    return dict(json.loads(file.read_bytes()))


def test_a_packument_has_only_what_is_stocked(layout: Layout) -> None:
    old = make_tarball("@s/a", "1.9.0", scripts={"postinstall": "x"}, bin="cli.js", dependencies={"b": "^1"})
    new = make_tarball("@s/a", "1.10.0-rc.1", description="only in the full form")
    tree = publish(layout, stocked(layout, old), stocked(layout, new))
    full = read(tree / "@s" / "a" / "index.json")
    assert (full["name"], full["dist-tags"]) == ("@s/a", {"latest": "1.10.0-rc.1"})
    versions = full["versions"]
    assert isinstance(versions, dict)
    assert list(versions) == ["1.10.0-rc.1", "1.9.0"]
    facts = versions["1.9.0"]
    assert facts["dist"]["tarball"] == f"{URL}/npm/@s/a/-/a-1.9.0.tgz"
    assert facts["dist"]["integrity"] == old.integrity
    assert (facts["hasInstallScript"], facts["bin"]) == (True, {"a": "cli.js"})
    assert versions["1.10.0-rc.1"]["description"] == "only in the full form"
    assert "hasInstallScript" not in versions["1.10.0-rc.1"]
    assert (tree / "@s/a/-/a-1.9.0.tgz").samefile(layout.store.path(old.sha256))


def test_the_abbreviated_form_has_what_an_installer_needs(layout: Layout) -> None:
    tarball = make_tarball("a", os=["linux"], description="x", scripts={"test": "x"}, dependencies={"b": "1"})
    tree = publish(layout, stocked(layout, tarball))
    short = read(tree / "a" / "install.json")["versions"]
    assert isinstance(short, dict)
    assert set(short["1.0.0"]) == {"name", "version", "dist", "os", "dependencies"}
    assert (tree / "a" / "index.html").read_bytes() == (tree / "a" / "install.json").read_bytes()
    assert read(tree / "a" / "1.0.0" / "index.json")["version"] == "1.0.0"


def test_equal_snapshots_give_equal_trees(tmp_path: Path) -> None:
    def tree(place: str, names: str) -> dict[str, bytes]:
        layout = Layout(tmp_path / place)
        root = publish(layout, *(stocked(layout, make_tarball(name)) for name in names))
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    assert tree("one", "abc") == tree("other", "cba")


def test_tarballs_of_the_tree_before_stay_and_pages_do_not(layout: Layout) -> None:
    publish(layout, stocked(layout, make_tarball("a")), stocked(layout, make_tarball("b")))
    tree = publish(layout, stocked(layout, make_tarball("b")))
    assert (tree / "a/-/a-1.0.0.tgz").exists()
    assert not (tree / "a/index.json").exists()
    assert (tree / "b/index.json").exists()


def test_what_was_told_of_a_file_is_not_read_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(layout, stocked(layout, make_tarball("a")))
    described: list[str] = []
    describe = npm.describe

    def counted(path: Path, file: Stocked) -> npm.Version:
        described.append(file.name)
        return describe(path, file)

    monkeypatch.setattr(npm, "describe", counted)
    publish(
        layout,
        stocked(layout, make_tarball("a")),
        stocked(layout, make_tarball("b")),
        url="https://new.example",
    )
    assert described == ["b"]
    assert b"https://new.example/npm/a/-/" in (layout.tree / "current/npm/a/index.json").read_bytes()


def test_the_registrys_own_file_stands_for_a_version(layout: Layout) -> None:
    own, other = make_tarball("a"), make_tarball("a", description="from elsewhere")
    files = [stocked(layout, other, "https://files.example/x.tgz"), stocked(layout, own)]
    tree = publish(layout, *files)
    assert (tree / "a/-/a-1.0.0.tgz").read_bytes() == own.data


def test_a_version_that_leaves_the_tree_is_not_shown(layout: Layout) -> None:
    tarball = make_tarball("a", "../../../x")
    file = stocked(layout, Tarball("a", "", tarball.data))
    assert not (publish(layout, file) / "a").exists()


def test_precedence() -> None:
    before = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered = [*before, "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0"]
    assert sorted(ordered, key=npm.precedence) == ordered
    assert sorted(set(ordered), key=npm.precedence) == ordered


def asked(layout: Layout, ask: Callable[[TestClient], Awaitable[None]]) -> None:  # type: ignore[type-arg]
    async def run() -> None:
        async with TestClient(TestServer(application(layout, backend=9))) as client:
            await ask(client)

    asyncio.run(run())


def test_served_at_whatever_address_the_client_uses(layout: Layout) -> None:
    tarball = make_tarball("@s/a", description="x")
    publish(layout, stocked(layout, tarball))

    async def ask(client: TestClient) -> None:  # type: ignore[type-arg]
        for path in ("/npm/@s/a", "/npm/@s%2fa", "/npm/@s%2Fa"):
            answer = await client.get(path, headers={"Host": "sandbox.example:81"})
            page = await answer.json()
            dist = page["versions"]["1.0.0"]["dist"]
            assert dist["tarball"] == "http://sandbox.example:81/npm/@s/a/-/a-1.0.0.tgz"
            assert page["versions"]["1.0.0"]["description"] == "x"
        accept = {"Accept": "application/vnd.npm.install-v1+json; q=1.0, */*"}
        short = await client.get("/npm/@s/a", headers=accept)
        assert "description" not in (await short.json())["versions"]["1.0.0"]
        known = {"If-None-Match": answer.headers["ETag"], "Host": "sandbox.example:81"}
        again = await client.get("/npm/@s/a", headers=known)
        assert again.status == 304
        file = await client.get("/npm/@s/a/-/a-1.0.0.tgz")
        assert await file.read() == tarball.data

    asked(layout, ask)


def test_a_tree_below_a_folder_that_is_called_npm(layout: Layout) -> None:
    publish(
        layout, *(stocked(layout, make_tarball(n)) for n in ("npm", "@s/npm")), url="https://m.example/npm"
    )

    async def ask(client: TestClient) -> None:  # type: ignore[type-arg]
        for name in ("npm", "@s/npm"):
            page = await (await client.get(f"/npm/{name}", headers={"Host": "m.example"})).json()
            place = page["versions"]["1.0.0"]["dist"]["tarball"]
            assert place == f"http://m.example/npm/{name}/-/npm-1.0.0.tgz"

    asked(layout, ask)


PATHS = (
    "/npm/b", "/npm/..%2f..%2fsnapshots", "/npm/@s%2f..%2f..%2fx", "/npm/a/-/..%2findex.json",
    "/npm/a/-/b-1.0.0.tgz", "/npm/@..%2fx", "/npm/%00", "/npm/a%5c..", "/npm/@s/%2e%2e",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_there(layout: Layout, path: str) -> None:
    publish(layout, stocked(layout, make_tarball("a")))

    async def ask(client: TestClient) -> None:  # type: ignore[type-arg]
        answer = await client.get(yarl.URL(path, encoded=True))
        assert answer.status == 404

    asked(layout, ask)


def test_a_host_that_is_none_is_refused(layout: Layout) -> None:
    publish(layout, stocked(layout, make_tarball("a")))

    async def ask(client: TestClient) -> None:  # type: ignore[type-arg]
        assert (await client.get("/npm/a", headers={"Host": 'x","y":"'})).status == 400

    asked(layout, ask)
