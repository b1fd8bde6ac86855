"""Real clients install from the static tree, where there is no way out of their network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.npm_registry import NpmRegistry, make_tarball, member
from tests.project import Project

pytestmark = [pytest.mark.network, pytest.mark.root]

PORT = 4999
REGISTRY = f"http://127.0.0.1:{PORT}/npm/"
TOOLS = Path(__file__).parent.parent.parent / ".cache" / "npm-clients"
CLIENTS = {"pnpm": "pnpm@9", "yarn": "yarn@1", "berry": "@yarnpkg/cli-dist@4", "bun": "bun@1"}
MANIFEST = {
    "name": "app",
    "version": "1.0.0",
    "dependencies": {"main": "1.0.0", "@scope/lib": "^2.0.0", "old": "npm:@scope/lib@1.0.0"},
    "devDependencies": {"tool": "1.0.0"},
}
INSIDE = """\
ip link set lo up
{python} {server} >server.log 2>&1 &
trap "kill $!" EXIT
until {python} -c 'import socket; socket.create_connection(("{host}", {port})).close()' 2>/dev/null
do sleep 0.05; done
{command}
"""


STATIC = f"-m http.server --bind {{host}} --directory {{folder}} {PORT}"
DYNAMIC = f"""-c '
from pathlib import Path
from aiohttp import web
from mirror.layout import Layout
from mirror.serve.app import application
web.run_app(application(Layout(Path("{{root}}")), backend=9), host="{{host}}", port={PORT})
'"""


def tarballs() -> list[object]:
    mine = {"os": ["linux"], "cpu": ["x64", "arm64"]}
    program = member("package/cli.js", b"#!/usr/bin/env node\nconsole.log('tool works')\n")
    return [
        make_tarball("main", dependencies={"@scope/lib": "2.1.0"}, optionalDependencies={
            "fits": "1.0.0", "fits-not": "1.0.0"}),
        make_tarball("@scope/lib", "2.1.0"),
        make_tarball("@scope/lib", "1.0.0"),
        make_tarball("fits", **mine),
        make_tarball("fits-not", os=["win32"]),
        make_tarball("tool", more=[program], bin="cli.js"),
    ]  # fmt: skip


@dataclass
class Web:
    """A project of npm's world, the registry that its locks are made with, and a home of its own."""

    project: Project
    registry: NpmRegistry

    @property
    def folder(self) -> Path:
        return self.project.folder

    def environment(self, registry: str) -> dict[str, str]:
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.lower().startswith("npm_config")}
        return {
            **kept,
            "HOME": str(home),
            "NPM_CONFIG_REGISTRY": registry,
            "NPM_CONFIG_UPDATE_NOTIFIER": "false",
            "NPM_CONFIG_AUDIT": "false",
            "NPM_CONFIG_FETCH_RETRIES": "0",
            "YARN_REGISTRY": registry,
            "YARN_NPM_REGISTRY_SERVER": registry.rstrip("/"),
            "YARN_UNSAFE_HTTP_WHITELIST": "127.0.0.1",
            "YARN_ENABLE_TELEMETRY": "0",
            "YARN_NODE_LINKER": "node-modules",
            "YARN_ENABLE_GLOBAL_CACHE": "0",
            "YARN_ENABLE_HARDENED_MODE": "0",
            "YARN_NPM_MINIMAL_AGE_GATE": "0",
        }

    def lock(self, *command: str) -> None:
        """Make a lock with the client itself, and forget whatever it fetched for it."""
        (self.folder / "package.json").write_text(json.dumps(MANIFEST))
        run(command, self.folder, self.environment(f"{self.registry.url}/"))
        for place in (self.folder / "node_modules", self.folder / ".yarn", self.folder.parent / "home"):
            shutil.rmtree(place, ignore_errors=True)

    def stock(self, lock: str, url: str = f"http://127.0.0.1:{PORT}") -> None:
        """Refresh the mirror from a lock, and shut the registry down."""
        self.project.config.write_text(
            f'[mirror]\ntools = []\nport = {self.project.port}\nurl = "{url}"\n'
            f'[targets]\npython = ["3.11"]\nplatforms = ["linux/amd64"]\n[locks.web]\npath = "{lock}"\n'
        )
        self.project.environment = {"NPM_CONFIG_REGISTRY": f"{self.registry.url}/"}
        self.project.refreshed()
        self.registry.tarballs.clear()

    def install(self, *command: str, server: str = "", registry: str = REGISTRY) -> str:
        """Run a client in a network of its own, which has nothing but a server of the tree."""
        tree = self.project.layout.tree / "current"
        server = server or STATIC.format(host="127.0.0.1", folder=tree)
        host = urlsplit(registry).hostname
        script = INSIDE.format(
            python=sys.executable, server=server, host=host, port=PORT, command=" ".join(command)
        )
        return run(("unshare", "--net", "sh", "-ec", script), self.folder, self.environment(registry))

    def installed(self) -> dict[str, str]:
        """Give name and version of what lies at the top of node_modules, by its place."""
        found = {}
        modules = self.folder / "node_modules"
        for file in sorted([*modules.glob("[!.@]*/package.json"), *modules.glob("@*/*/package.json")]):
            facts = json.loads(file.read_text())
            found[str(file.parent.relative_to(modules))] = f"{facts['name']}@{facts['version']}"
        return found


def run(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> str:
    ended = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture
def web(project: Project) -> Iterator[Web]:
    with NpmRegistry() as registry:
        registry.tarballs = tarballs()  # type: ignore[assignment]
        yield Web(project, registry)


@pytest.fixture(scope="session")
def tools() -> dict[str, list[str]]:
    """Bring the clients that npm does not bring along, each in a folder of its own, once."""
    for name, package in CLIENTS.items():
        if not (TOOLS / name / "node_modules").exists():
            (TOOLS / name).mkdir(parents=True, exist_ok=True)
            run(("npm", "install", "--prefix", str(TOOLS / name), package), TOOLS, os.environ)
    programs = {
        name: [str(TOOLS / name / "node_modules" / ".bin" / name)] for name in ("pnpm", "yarn", "bun")
    }
    berry = TOOLS / "berry" / "node_modules" / "@yarnpkg" / "cli-dist" / "bin" / "yarn.js"
    return {**programs, "berry": ["node", str(berry)]}


FLAT = {"main": "main@1.0.0", "@scope/lib": "@scope/lib@2.1.0", "old": "@scope/lib@1.0.0",
        "fits": "fits@1.0.0", "tool": "tool@1.0.0"}  # fmt: skip
DIRECT = {name: label for name, label in FLAT.items() if name != "fits"}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("resolved", [True, False])
def test_npm_ci(web: Web, version: int, resolved: bool) -> None:
    web.lock(
        "npm", "install", "--package-lock-only", f"--lockfile-version={version}",
        f"--omit-lockfile-registry-resolved={str(not resolved).lower()}",
    )  # fmt: skip
    assert ("resolved" in (web.folder / "package-lock.json").read_text()) is resolved
    web.stock("package-lock.json")
    web.install("npm", "ci", "--replace-registry-host=always" if resolved else "")
    assert web.installed() == FLAT
    assert run(("node_modules/.bin/tool",), web.folder, os.environ) == "tool works\n"


def test_npm_ci_where_a_plain_server_has_the_tree_below_a_folder(web: Web) -> None:
    """The tree lies at another address and deeper than usual, and `url` says where."""
    top = web.project.layout.root
    place = f"http://127.0.0.2:{PORT}/tree/current"
    web.lock("npm", "install", "--package-lock-only", "--omit-lockfile-registry-resolved")
    web.stock("package-lock.json", url=place)
    web.install("npm", "ci", server=STATIC.format(host="127.0.0.2", folder=top), registry=f"{place}/npm/")
    assert web.installed() == FLAT


def test_npm_ci_from_mirror_serve_at_an_address_that_nobody_told_it(web: Web) -> None:
    web.lock("npm", "install", "--package-lock-only", "--omit-lockfile-registry-resolved")
    web.stock("package-lock.json", url="https://elsewhere.example")
    server = DYNAMIC.format(host="127.0.0.3", root=web.project.layout.root)
    web.install("npm", "ci", server=server, registry=f"http://127.0.0.3:{PORT}/npm/")
    assert web.installed() == FLAT


def test_pnpm(web: Web, tools: dict[str, list[str]]) -> None:
    web.lock(*tools["pnpm"], "install", "--lockfile-only")
    web.stock("pnpm-lock.yaml")
    web.install(*tools["pnpm"], "install", "--frozen-lockfile")
    assert web.installed() == DIRECT


def test_yarn_berry(web: Web, tools: dict[str, list[str]]) -> None:
    (web.folder / "yarn.lock").touch()
    web.lock(*tools["berry"], "install", "--mode=update-lockfile")
    web.stock("yarn.lock")
    web.install(*tools["berry"], "install", "--immutable")
    assert web.installed() == FLAT


def test_bun(web: Web, tools: dict[str, list[str]]) -> None:
    web.lock(*tools["bun"], "install", "--lockfile-only")
    web.stock("bun.lock")
    web.install(*rewritten("bun.lock"), "&&", *tools["bun"], "install", "--frozen-lockfile")
    assert web.installed() == FLAT


def test_yarn_1(web: Web, tools: dict[str, list[str]]) -> None:
    web.lock(*tools["yarn"], "install", "--ignore-scripts", "--ignore-platform")
    web.stock("yarn.lock")
    web.install(*rewritten("yarn.lock"), "&&", *tools["yarn"], "install", "--frozen-lockfile")
    assert web.installed() == FLAT


def rewritten(lock: str) -> tuple[str, ...]:
    """Give the command that makes a lock name the static tree, and nothing of where it was made."""
    return (
        sys.executable, "-m", "mirror", "rewrite", lock, "--index", REGISTRY, "-o", lock,
    )  # fmt: skip
