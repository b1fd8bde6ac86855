"""npm in an image: the cache that a real npm installs from, and what a sandbox says of what is not there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen.archive import Entry, write_folder
from imagegen.context import npm_cache, render
from imagegen.engines.docker import DockerEngine
from imagegen.errors import NotStockedError
from imagegen.guest import offline
from imagegen.npmcache import REGISTRY
from imagegen.plan import ImagePlan, make_plan
from imagegen.spec import DebianBase, ImageSpec, find_image
from imagegen.verify import npm_folders
from mirror import config as configuration
from mirror.store import Store
from tests.imagegen.conftest import Sandbox, remove_images
from tests.imagegen.plans import BASE, LEFT_PAD, SNAPSHOT, TARGET
from tests.imagegen.stocked import StockedProject
from tests.npm_registry import NpmRegistry, Tarball, make_tarball, member, package_lock
from tests.project import Project

NAME = "pytest-npm"
CONFIG = f"""\
[mirror]
tools = []
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.web]
path = "web/package-lock.json"
[images.{NAME}]
base = "debian:bookworm"
locks = ["web"]
project = "."
"""
PROGRAM = member("package/cli.js", b"#!/usr/bin/env node\nconsole.log('tool works')\n")


def tarballs() -> list[Tarball]:
    return [
        make_tarball("main", dependencies={"@scope/lib": "2.1.0"}),
        make_tarball("@scope/lib", "2.1.0"),
        make_tarball("tool", more=[PROGRAM], bin="cli.js"),
    ]


def plan(lock: str) -> ImagePlan:
    spec = ImageSpec(name="dev", base=DebianBase(suite="bookworm"), locks=(lock,))
    return make_plan(spec, SNAPSHOT, TARGET, BASE, templates="t")


@pytest.fixture
def web(project: Project) -> Iterator[Project]:
    """A project that is stocked, and a registry that no longer answers."""
    files = tarballs()
    manifest = {"name": "app", "version": "1.0.0", "dependencies": {t.name: t.version for t in files}}
    with NpmRegistry() as registry:
        registry.tarballs = files
        folder = project.folder / "web"
        folder.mkdir()
        (folder / "package.json").write_text(json.dumps(manifest))
        (folder / "package-lock.json").write_text(package_lock(files))
        project.config.write_text(CONFIG)
        project.environment = {"NPM_CONFIG_REGISTRY": registry.url}
        project.refreshed()
    return project


def stocked(project: Project) -> tuple[ImagePlan, Store]:
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    config = configuration.load(project.config)
    made = make_plan(find_image(config, NAME), snapshot, config.targets[0], BASE, templates="t")
    return made, project.layout.store


def test_a_lock_of_npm_brings_node(web: Project) -> None:
    base = find_image(configuration.load(web.config), NAME).base
    assert base == DebianBase(suite="bookworm", packages=("nodejs", "npm"))


def test_only_images_with_locks_of_npm_have_its_files() -> None:
    with_npm = {entry.path for entry in render(plan("web"))} - {entry.path for entry in render(plan("app"))}
    assert with_npm == {
        "rootfs/opt/lockstock/npmrc", "rootfs/opt/lockstock/bin/npm", "rootfs/opt/lockstock/bin/npx",
    }  # fmt: skip
    assert plan("web").npm == (LEFT_PAD,)
    assert plan("app").npm == ()
    assert npm_cache(plan("app"), Store(Path("nowhere"))) == ()


def test_the_configuration_leads_nowhere() -> None:
    (npmrc,) = [e.content for e in render(plan("web")) if e.path.endswith("npmrc")]
    assert isinstance(npmrc, bytes)
    lines = npmrc.decode().splitlines()
    assert {f"registry={REGISTRY}", "offline=true", "audit=false", "fund=false"} <= set(lines)


def test_a_tarball_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(NotStockedError, match=r"left_pad-1\.0\.tgz"):
        npm_cache(plan("web"), Store(tmp_path))


def test_equal_stock_gives_an_equal_cache(web: Project) -> None:
    made, store = stocked(web)
    assert npm_cache(made, store) == npm_cache(made, store)
    assert npm_cache(made, store)[0] == Entry(
        path="npm/stocked.txt", content=b"@scope/lib 2.1.0\nmain 1.0.0\ntool 1.0.0\n"
    )


@pytest.mark.root
@pytest.mark.parametrize("registry", [None, "https://registry.example"])
@pytest.mark.parametrize("option", ["", "--offline"])
def test_npm_ci_from_the_cache_alone(web: Project, registry: str | None, option: str) -> None:
    files = tarballs()
    (web.folder / "web" / "package-lock.json").write_text(package_lock(files, registry))
    ended = npm_inside(web, "ci", *filter(None, [option]))
    assert ended.returncode == 0, ended.stderr
    assert "added 3 packages" in ended.stdout
    program = web.folder / "web" / "node_modules" / "tool" / "cli.js"
    assert subprocess.run(["node", program], capture_output=True, check=True).stdout == b"tool works\n"
    ended = npm_inside(web, "install", "left-pad")
    assert offline.missing(ended.stderr, offline._NPM_MISSING) == "left-pad"
    ended = npm_inside(web, "install", "main@9.9.9")
    assert offline.missing(ended.stderr, offline._NPM_MISSING) == "main@9.9.9"


def npm_inside(web: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run npm with the baked cache in a network of its own, which has nothing."""
    made, store = stocked(web)
    cache = web.folder / "cache"
    if not cache.exists():
        write_folder(npm_cache(made, store), cache)
    (npmrc,) = [e.content for e in render(made) if e.path.endswith("npmrc")]
    assert isinstance(npmrc, bytes)
    text = npmrc.decode().replace("/opt/lockstock/npm/cache", str(cache / "npm" / "cache"))
    (web.folder / "npmrc").write_text(text)
    clean = {key: value for key, value in os.environ.items() if not key.lower().startswith("npm_config")}
    environment = {
        **clean,
        "NPM_CONFIG_GLOBALCONFIG": str(web.folder / "npmrc"),
        "NPM_CONFIG_USERCONFIG": os.devnull,
    }
    return subprocess.run(
        ["unshare", "--net", "npm", *arguments],
        cwd=web.folder / "web", env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ("left-pad", "left-pad is not stocked; ask"),
        ("@scope%2flib", "@scope/lib is not stocked (stocked: 2.0.0, 2.1.0); ask"),
        ("main@9.9.9", "main@9.9.9 is not stocked (stocked: 1.0.0); ask"),
    ],
)
def test_the_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: str, told: str) -> None:
    (tmp_path / "npm").mkdir()
    (tmp_path / "npm" / "stocked.txt").write_text("@scope/lib 2.0.0\n@scope/lib 2.1.0\nmain 1.0.0\n")
    (tmp_path / "ask.txt").write_text("ask\n")
    monkeypatch.setattr(offline, "HOME", str(tmp_path))
    assert offline.explain_npm(request_) == f"this sandbox is offline and {told}"


def test_which_folders_are_verified(web: Project) -> None:
    config = configuration.load(web.config)
    assert npm_folders(config, find_image(config, NAME)) == ("/workspace/web",)


@pytest.mark.docker
@pytest.mark.network
def test_in_a_real_sandbox(web: Project, engine: DockerEngine, cache: Path) -> None:
    shared = StockedProject(web.folder)
    shared.share_bases(cache / "bases")
    try:
        reference = str(shared.json("build", NAME, "--engine", "docker")["reference"])
        report = shared.json("verify", NAME)
        names = [check["name"] for check in report["checks"]]
        assert {"npm ci in /workspace/web", "npm ls in /workspace/web"} <= set(names)
        sandbox = Sandbox(shared, reference, engine)
        begun = "start=$(date +%s%N)"
        took = 'test $((($(date +%s%N) - start) / 1000000)) -lt 2000 && echo "soon enough"'
        code, said = sandbox.run(f"cd /tmp && {begun}; npm install left-pad; {took}")
        assert "this sandbox is offline and left-pad is not stocked; to get it, add it to" in said
        assert (code, said.splitlines()[-1]) == (0, "soon enough")
        code, said = sandbox.run("cd /tmp && npm install tool && npx tool && env | grep NODE_USE")
        assert code == 0, said
        assert "tool works\nNODE_USE_ENV_PROXY=1" in said
    finally:
        remove_images(engine, f"lockstock/{NAME}")
