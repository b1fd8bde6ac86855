"""npm in an image: the cache that a real npm installs from, and what a sandbox says of what is not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from imagegen.archive import Entry, write_folder
from imagegen.context import npm_cache, render
from imagegen.engines.docker import DockerEngine
from imagegen.errors import NotStockedError
from imagegen.guest import offline
from imagegen.nodemodules import _part, parts
from imagegen.nodeproject import npm_folders, read_projects
from imagegen.npmcache import REGISTRY
from imagegen.plan import ImagePlan, NodeProject, make_plan
from imagegen.rootfs import read_rootfs
from imagegen.spec import DebianBase, ImageSpec, find_image
from imagegen.verify import steps
from lockfiles.errors import ConfigError
from mirror import config as configuration
from mirror.store import Store
from tests.imagegen.base_layout import base_files, tar
from tests.imagegen.conftest import Sandbox, remove_images
from tests.imagegen.npm_project import npm_config, stock_npm
from tests.imagegen.plans import BASE, LEFT_PAD, SNAPSHOT, TARGET
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_docker_same import files
from tests.npm_registry import NpmRegistry, Tarball, make_tarball, member, package_lock
from tests.project import Project

NAME = "pytest-npm"
CONFIG = npm_config(NAME)
DIRECT = f"{NAME}-direct"
SECOND = f"""
[images.{DIRECT}]
base = "debian:bookworm"
locks = ["web"]
project = "."
install = true
"""
# Within two seconds, on a machine that may have much else to do: one of three tries has to be.
SOON = """cd /tmp
for attempt in 1 2 3; do
    start=$(date +%s%N)
    npm install left-pad
    test $((($(date +%s%N) - start) / 1000000)) -lt 2000 && echo "soon enough" && break
done"""
NO_ENGINE = {"DOCKER_HOST": "unix:///nothing.sock"}
OURS = ("opt/lockstock/npm/", "opt/lockstock/bin/", "opt/lockstock/npmrc", "workspace/")
INSTALLED = ("package.json", "node_modules/.bin/tool", "node_modules/@scope/lib/index.js")
PROGRAM = member("package/cli.js", b"#!/usr/bin/env node\nconsole.log('tool works')\n")


def tarballs() -> list[Tarball]:
    return [
        make_tarball("main", dependencies={"@scope/lib": "2.1.0"}),
        make_tarball("@scope/lib", "2.1.0"),
        make_tarball("tool", more=[PROGRAM], bin="cli.js", scripts={"postinstall": "touch ran"}),
    ]


def plan(lock: str) -> ImagePlan:
    spec = ImageSpec(name="dev", base=DebianBase(suite="bookworm"), locks=(lock,))
    return make_plan(spec, SNAPSHOT, TARGET, BASE, templates="t")


def locked(files: list[Tarball], registry: str | None = None) -> str:
    """Write the lock as npm does, which notes what would run when it is installed."""
    content = json.loads(package_lock(files, registry))
    content["packages"]["node_modules/tool"]["hasInstallScript"] = True
    return json.dumps(content)


@pytest.fixture
def web(project: Project) -> Project:
    """A project that is stocked, and a registry that no longer answers."""
    files = tarballs()
    stock_npm(project, CONFIG, files, locked(files))
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
    (web.folder / "web" / "package-lock.json").write_text(locked(files, registry))
    ended = npm_inside(web, "ci", *filter(None, [option]))
    assert ended.returncode == 0, ended.stderr
    assert "added 3 packages" in ended.stdout
    program = web.folder / "web" / "node_modules" / "tool" / "cli.js"
    assert subprocess.run(["node", program], capture_output=True, check=True).stdout == b"tool works\n"
    ended = npm_inside(web, "install", "left-pad")
    assert offline.missing(ended.stderr, offline._NPM_MISSING) == "left-pad"
    ended = npm_inside(web, "install", "main@9.9.9")
    assert offline.missing(ended.stderr, offline._NPM_MISSING) == "main@9.9.9"


@pytest.mark.root
def test_a_tarball_of_some_url_is_in_the_cache_too(project: Project) -> None:
    made = make_tarball("extra")
    with NpmRegistry() as registry:
        registry.pages["/files/extra.tgz"] = made.data
        url = f"{registry.url}/files/extra.tgz"
        folder = project.folder / "web"
        folder.mkdir()
        manifest = {"name": "app", "version": "1.0.0", "dependencies": {"extra": url}}
        (folder / "package.json").write_text(json.dumps(manifest))
        place = {"node_modules/extra": {"version": "1.0.0", "resolved": url, "integrity": made.integrity}}
        content = {"lockfileVersion": 3, "requires": True, "packages": {"": manifest, **place}}
        (folder / "package-lock.json").write_text(json.dumps(content))
        project.config.write_text(CONFIG)
        project.environment = {"NPM_CONFIG_REGISTRY": registry.url}
        project.refreshed()
    ended = npm_inside(project, "ci")
    assert ended.returncode == 0, ended.stderr
    assert (folder / "node_modules" / "extra" / "index.js").exists()


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


@pytest.fixture
def shared(web: Project, cache: Path) -> StockedProject:
    """The project with node_modules wanted, and the bases of the tests' cache."""
    web.config.write_text(CONFIG + "install = true\n" + SECOND)
    made = StockedProject(web.folder)
    made.share_bases(cache / "bases")
    return made


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.root
def test_in_a_real_sandbox_of_either_engine(shared: StockedProject, engine: DockerEngine) -> None:
    try:
        made = [
            Sandbox(shared, str(shared.json("build", name, "--engine", kind)["reference"]), engine)
            for name, kind in ((NAME, "docker"), (DIRECT, "oci"))
        ]
        docker, direct = ({p: f for p, f in files(one).items() if p.startswith(OURS)} for one in made)
        assert docker == direct
        assert {f"workspace/web/{path}" for path in INSTALLED} <= set(direct)
        assert "workspace/web/node_modules/tool/ran" not in direct
        assert variables(made[0]) == variables(made[1])
        for sandbox in made:
            tried(sandbox)
        names = [check["name"] for check in shared.json("verify", NAME)["checks"]]
        assert {"npm ci in /workspace/web", "npm ls in /workspace/web"} <= set(names)
    finally:
        for name in (NAME, DIRECT):
            remove_images(engine, f"lockstock/{name}")


def tried(sandbox: Sandbox) -> None:
    code, said = sandbox.run(SOON)
    assert "this sandbox is offline and left-pad is not stocked; to get it, add it to" in said
    assert (code, said.splitlines()[-1]) == (0, "soon enough")
    code, said = sandbox.run("cd /tmp && npm install tool && npx tool && env | grep NODE_USE")
    assert code == 0, said
    assert "tool works\nNODE_USE_ENV_PROXY=1" in said
    code, said = sandbox.run("cd web && npm ls && npx tool && node -p \"require('@scope/lib')\" && npm ci")
    assert code == 0, said
    assert "main@1.0.0" in said
    assert "tool works\n1\n" in said


def variables(sandbox: Sandbox) -> list[str]:
    return sorted(sandbox.engine.client.images.get(sandbox.reference).attrs["Config"]["Env"])


@pytest.mark.network
@pytest.mark.root
def test_without_an_engine_and_the_same_bits_again(shared: StockedProject) -> None:
    first = shared.imagegen("build", DIRECT, "--json", environment=NO_ENGINE)
    assert first.returncode == 0, first.stderr
    assert "note: install scripts are not run, those of tool; `npm rebuild NAME`" in first.stderr
    for name in ("oci", "layers"):
        shutil.rmtree(shared.layout.root / name)
    again = shared.imagegen("build", DIRECT, "--json", environment=NO_ENGINE)
    manifests = [json.loads(ended.stdout)["manifest"] for ended in (first, again)]
    assert manifests[0] == manifests[1]
    ended = shared.imagegen("verify", DIRECT, environment=NO_ENGINE)
    assert ended.returncode == 0, ended.stderr
    assert not (shared.layout.root / "node").exists()


@pytest.mark.network
@pytest.mark.root
def test_a_lock_that_does_not_fit_its_manifest(shared: StockedProject) -> None:
    manifest = {"name": "app", "version": "1.0.0", "dependencies": {"nobody": "1.0.0"}}
    (shared.folder / "web" / "package.json").write_text(json.dumps(manifest))
    ended = shared.imagegen("build", DIRECT, environment=NO_ENGINE)
    assert ended.returncode == 42
    assert "npm cannot install what is locked" in ended.stderr
    assert "nobody" in ended.stderr


def read(web: Project) -> NodeProject:
    config = configuration.load(web.config)
    snapshot = web.layout.snapshots.current()
    assert snapshot is not None
    (found,) = read_projects(config, find_image(config, DIRECT), snapshot)
    return found


class TestInstall:
    @pytest.fixture(autouse=True)
    def _wanted(self, web: Project) -> None:
        web.config.write_text(CONFIG + SECOND)

    def test_what_decides_the_tree(self, web: Project) -> None:
        (web.folder / "web" / ".npmrc").write_text("//r.example/:_authToken=secret\nlegacy-peer-deps=true\n")
        with (web.folder / "web" / ".npmrc").open("ab") as settings:
            settings.write(b"; Ren\xe9\n")
        found = read(web)
        assert found.folder == "web"
        assert set(found.files) == {"web/package.json", "web/package-lock.json", "web/.npmrc"}
        assert found.files["web/.npmrc"] == "legacy-peer-deps=true\n"
        assert found.scripts == ("tool",)

    def test_not_wanted(self, web: Project) -> None:
        config = configuration.load(web.config)
        snapshot = web.layout.snapshots.current()
        assert snapshot is not None
        assert read_projects(config, find_image(config, NAME), snapshot) == ()

    def test_a_lock_that_changed_since(self, web: Project) -> None:
        (web.folder / "web" / "package-lock.json").write_text(package_lock(tarballs()[:1]))
        with pytest.raises(NotStockedError, match="the lock is not what was stocked"):
            read(web)

    def test_without_a_lock_of_npm_in_the_project(self, web: Project) -> None:
        web.config.write_text(web.config.read_text().replace('project = "."', 'project = "elsewhere"'))
        (web.folder / "elsewhere").mkdir()
        with pytest.raises(ConfigError, match="`install` needs a lock of npm that lies in the image's"):
            read(web)

    def test_workspaces_and_what_lies_outside(self, web: Project) -> None:
        (web.folder / "web" / "lib").mkdir()
        (web.folder / "web" / "lib" / "package.json").write_text("{}")
        restocked(web, {"lib": {"version": "1.0.0"}, "node_modules/lib": {"resolved": "lib", "link": True}})
        assert set(read(web).files) == {"web/package.json", "web/package-lock.json", "web/lib/package.json"}
        restocked(web, {"../../lib": {"version": "1.0.0"}})
        with pytest.raises(ConfigError, match=r"the lock links to \.\./lib/package\.json"):
            read(web)


def restocked(web: Project, places: dict[str, object]) -> None:
    """Put more places into the lock, and into the snapshot that this is what was stocked."""
    lock = web.folder / "web" / "package-lock.json"
    content = json.loads(locked(tarballs()))
    content["packages"].update(places)
    lock.write_text(json.dumps(content))
    name = web.layout.snapshots.current_name()
    path = web.layout.snapshots.root / f"{name}.json"
    snapshot = json.loads(path.read_text())
    snapshot["locks"][0]["sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    path.write_text(json.dumps(snapshot))


def test_the_parts_of_a_tree() -> None:
    many = replace(plan("web"), npm=(LEFT_PAD,) * 50)
    assert (parts(plan("web")), parts(many), parts(replace(many, layers=12))) == (1, 8, 3)
    top = PurePosixPath("workspace/node_modules")
    own = [PurePosixPath("workspace/package.json"), top / ".bin" / "tool", top / ".package-lock.json"]
    assert {_part(path, top, 8) for path in (*own, top)} == {0}
    assert _part(top / "@s" / "a" / "x.js", top, 8) == _part(top / "@s" / "a" / "node_modules" / "b", top, 8)
    spread = {_part(top / name / "x.js", top, 8) for name in "abcdefghijklmnopqrstuvwxyz"}
    assert len(spread) > 4
    assert spread < set(range(1, 8))


def test_node_of_a_base_wherever_it_lies(tmp_path: Path) -> None:
    files, npm = base_files(tmp_path, "amd64"), (tarfile.SYMTYPE, "../lib/node_modules/npm/bin/npm-cli.js")
    (tmp_path / "bare.tar").write_bytes(tar(files))
    (tmp_path / "base.tar").write_bytes(tar({**files, "usr/local/bin/node": b""}, {"usr/bin/npm": npm}))
    assert read_rootfs(tmp_path / "bare.tar").programs == set()
    assert read_rootfs(tmp_path / "base.tar").programs == {"node", "npm"}


def test_node_modules_that_came_along_is_shown_before_it_is_made_again() -> None:
    spec = ImageSpec(name="dev", base=DebianBase(suite="bookworm"), locks=("web",))
    for install, names in (
        (True, ["npm ls in /w", "npm ci in /w"]),
        (False, ["npm ci in /w", "npm ls in /w"]),
    ):
        wanted = steps(replace(spec, install=install), (), ["/w"])
        assert [step.name for step in wanted if step.name.startswith("npm")] == names
