"""Real clients with a token, on TCP: pip, uv, npm, curl and git, each in its own way to carry it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.gate.core import Settings
from mirror.gate.keys import GateHome
from mirror.gate.log import Log
from mirror.gate.packages import Shelf
from mirror.gate.policyfile import parse_policy
from mirror.gate.running import asker
from mirror.gate.server import Gate
from mirror.gate.tokens import caveat, mint
from mirror.publish.pages import file_path, pages
from mirror.snapshot import Selected, Snapshot, Stocked
from tests.mirror.gate.harness import SIGNER
from tests.wheels import digest, make_wheel

pytestmark = pytest.mark.anyio


class Site:
    """A gate on TCP with one Python package and one npm package behind a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.home = GateHome(folder / "gate")
        wheel = make_wheel(folder, "alpha", "1.0")
        self.wheel = Stocked(
            ecosystem="pypi", name="alpha", version="1.0", filename=wheel.name, sha256=digest(wheel),
            size=wheel.stat().st_size, url="",
        )  # fmt: skip
        place = self.tree / file_path(self.wheel)
        place.parent.mkdir(parents=True)
        shutil.copy(wheel, place)
        for path, content in pages([self.wheel], {}):
            (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / path).write_bytes(content)
        self.port = 0
        self.log = Log(folder / "gate.jsonl", SIGNER)
        self.policy = parse_policy("clients.toml", "mirror = true", {})

    def token(self, *caveats: str) -> str:
        key = self.home.newest_key(time.time())
        return str(mint(key.id, key.secret, task="ci", expires=int(time.time()) + 600, caveats=caveats))

    def write_npm(self) -> None:
        """Write an npm tree, whose packument names the address it was published for."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            manifest = json.dumps({"name": "thing", "version": "1.0.0"}).encode()
            info = tarfile.TarInfo("package/package.json")
            info.size = len(manifest)
            tar.addfile(info, io.BytesIO(manifest))
        folder = self.tree / "npm" / "thing"
        (folder / "-").mkdir(parents=True)
        (folder / "-" / "thing-1.0.0.tgz").write_bytes(data.getvalue())
        sri = "sha512-" + base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
        url = "http://mirror.example:8080/npm/thing/-/thing-1.0.0.tgz"  # the gate says its own instead
        version = {"name": "thing", "version": "1.0.0", "dist": {"tarball": url, "integrity": sri}}
        packument = {"name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        for page in ("index.json", "install.json", "index.html"):
            (folder / page).write_text(json.dumps(packument, separators=(",", ":")))

    async def call(self, *command: str, **environment: str) -> tuple[int, str]:
        """Run a client with nothing of this machine's own settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "npm_", "NPM_"))}
        kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
        ended = await asyncio.to_thread(
            subprocess.run, command, env={**kept, "HOME": str(self.folder), **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder, timeout=100, check=False,
        )  # fmt: skip
        return ended.returncode, ended.stdout

    def records(self, event: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.log.path.read_text().splitlines()]
        return [record for record in found if record["event"] == event]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    chosen = Selected(lock="app", target="t", artifacts=(site.wheel.sha256,))
    settings = Settings(
        policy=site.policy, tree=site.tree, shelf=Shelf.of(Snapshot.of([], [site.wheel], [chosen]))
    )
    gate = Gate(settings, site.log, identify=asker(site.home, site.policy, lambda: "lock"))
    site.port = await gate.listen_tcp("127.0.0.1", 0)
    yield site
    await gate.close()
    site.log.close()


def pip(site: Site, index: str) -> list[str]:
    options = ["--isolated", "--no-cache-dir", "--retries=0", "--disable-pip-version-check", "-d", "got"]
    return [sys.executable, "-m", "pip", "download", *options, "-i", index, "alpha"]


@pytest.mark.parametrize("carrier", ["url", "netrc"])
async def test_pip(site: Site, carrier: str) -> None:
    host = f"127.0.0.1:{site.port}"
    login = f"token:{site.token()}@" if carrier == "url" else ""
    if carrier == "netrc":
        (site.folder / ".netrc").write_text(f"machine 127.0.0.1 login token password {site.token()}\n")
        (site.folder / ".netrc").chmod(0o600)
    code, told = await site.call(*pip(site, f"http://{login}{host}/simple/"))
    assert code == 0, told
    assert (site.folder / "got" / site.wheel.filename).exists()
    (served,) = (record for record in site.records("served") if "package" in record)
    assert (served["package"], served["locks"], served["task"]) == ("alpha", ["app"], "ci")


async def test_pip_without_a_token(site: Site) -> None:
    code, told = await site.call(*pip(site, f"http://127.0.0.1:{site.port}/simple/"), "--no-input")
    assert code != 0
    assert "No matching distribution" in told
    assert site.records("served") == []
    assert {record["kind"] for record in site.records("blocked")} == {"token"}


async def test_uv(site: Site) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    index = f"http://token:{site.token()}@127.0.0.1:{site.port}/simple/"
    target = str(site.folder / "target")
    command = [uv, "pip", "install", "--no-config", "--no-cache", f"--python={sys.executable}"]
    code, told = await site.call(*command, "--default-index", index, "--target", target, "alpha")
    assert code == 0, told
    assert (site.folder / "target" / "alpha-1.0.dist-info").exists()


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
async def test_npm(site: Site) -> None:
    site.write_npm()
    (site.folder / ".npmrc").write_text(
        f"registry=http://127.0.0.1:{site.port}/npm/\n//127.0.0.1:{site.port}/npm/:_authToken={site.token()}\n"
    )
    (site.folder / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0"]
    code, told = await site.call("npm", "install", "thing", *options)
    assert code == 0, told
    assert (site.folder / "node_modules" / "thing" / "package.json").exists()
    code, told = await site.call("npm", "install", "nothing-like-it", *options)
    assert code != 0
    assert "does not hold" in told or "404" in told
    assert site.records("missing")[-1]["package"] == "nothing-like-it"


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
async def test_npm_ci_of_a_lock_that_names_another_registry(site: Site) -> None:
    site.write_npm()
    registry = f"127.0.0.1:{site.port}/npm/"
    (site.folder / ".npmrc").write_text(
        f"registry=http://{registry}\n//{registry}:_authToken={site.token()}\n"
    )
    (site.folder / "package.json").write_text(
        '{"name": "x", "version": "1.0.0", "dependencies": {"thing": "1.0.0"}}'
    )
    code, told = await site.call("npm", "install", "--package-lock-only", "--no-audit")
    assert code == 0, told
    lock = site.folder / "package-lock.json"
    lock.write_text(lock.read_text().replace(f"http://{registry}", "https://registry.example/"))
    assert "https://registry.example/thing/-/thing-1.0.0.tgz" in lock.read_text()
    code, told = await site.call(
        "npm", "ci", "--no-audit", "--fetch-retries=0", NPM_CONFIG_REPLACE_REGISTRY_HOST="always"
    )
    assert code == 0, told
    assert (site.folder / "node_modules" / "thing" / "package.json").exists()


async def test_a_narrowed_token_and_a_proxy_login(site: Site) -> None:
    token = site.token(caveat("operations", "tunnel"))
    url = f"http://127.0.0.1:{site.port}/simple/alpha/"
    code, told = await site.call("curl", "-sS", "--noproxy", "*", "-u", f"x:{token}", url)
    assert "not for this operation" in told
    assert site.records("token") == []
    proxy = f"http://x:{token}@127.0.0.1:{site.port}"
    code, told = await site.call("curl", "-sSv", "https://docs.example/", https_proxy=proxy)
    assert code != 0
    assert "docs.example is not in the policy" in told
    assert token not in site.log.path.read_text()
    code, told = await site.call("git", "ls-remote", "https://docs.example/x.git", https_proxy=proxy)
    assert "403" in told
    (used,) = site.records("token")  # at its first use, with what it was narrowed by
    assert (used["action"], used["task"]) == ("use", "ci")
    assert "operations = tunnel" in str(used["caveats"])
    denied = [record for record in site.records("decision") if record["verdict"] == "deny"]
    assert {record["host"] for record in denied} == {"docs.example"}
