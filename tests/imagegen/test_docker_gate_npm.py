"""npm in real containers, and the registry behind a gate: by the task's socket, and by TCP with a token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagegen.contained import Ended, run
from imagegen.engines.docker import DockerEngine
from imagegen.spec import find_image
from mirror.gate.policyfile import load_policy
from tests.imagegen.conftest import remove_images
from tests.imagegen.npm_project import npm_config, stock_npm
from tests.imagegen.stocked import StockedProject
from tests.npm_registry import Tarball, make_tarball, package_lock
from tests.project import Project

pytestmark = [pytest.mark.docker, pytest.mark.network]
NAME = "pytest-gate-npm"


@pytest.fixture
def stocked(project: Project, cache: Path) -> StockedProject:
    """A project whose mirror holds two npm packages, and whose registry does not answer any more."""
    files = tarballs()
    stock_npm(project, npm_config(NAME), files, package_lock(files))
    made = StockedProject(project.folder)
    made.share_bases(cache / "bases")
    return made


def tarballs() -> list[Tarball]:
    return [make_tarball("main", dependencies={"@scope/lib": "2.1.0"}), make_tarball("@scope/lib", "2.1.0")]


def inside(project: StockedProject, engine: DockerEngine, script: str) -> Ended:
    spec = find_image(project.config, NAME)
    return run(project.config, spec, engine, load_policy("test-run"), NAME, ["sh", "-c", script])


@contextmanager
def listening(project: StockedProject, place: str) -> Iterator[None]:
    """Run a gate that containers reach by TCP."""
    command = [sys.executable, "-m", "mirror", "gate", "serve", "--policy", "test-run"]
    with subprocess.Popen(
        [*command, "--listen", place], cwd=project.folder, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    ) as gate:  # fmt: skip
        assert gate.stderr
        line = gate.stderr.readline()
        assert "open at" in line, line + gate.stderr.read()
        try:
            yield
        finally:
            gate.terminate()
            gate.communicate(timeout=20)


def by_token(project: StockedProject, engine: DockerEngine, port: int) -> None:
    """Install in a container with a network, and with a token that npm sends as it does to any registry."""
    mint = [sys.executable, "-m", "mirror", "token", "mint", "ci", "--operations", "mirror"]
    token = subprocess.check_output(mint, cwd=project.folder, text=True).strip()
    place = f"{engine.gateways()[0]}:{port}"
    with listening(project, place):
        registry = f"{place}/npm/"
        script = (
            "export NPM_CONFIG_CACHE=/tmp/empty NPM_CONFIG_OFFLINE=false HOME=/tmp && "
            "mkdir /tmp/x && cd /tmp/x && "
            f"npm init -y >/dev/null && export NPM_CONFIG_REGISTRY=http://{registry} && "
            f"! npm install main 2>/dev/null && echo '//{registry}:_authToken={token}' > /tmp/.npmrc && "
            "export NPM_CONFIG_USERCONFIG=/tmp/.npmrc && npm install --no-audit main && "
            "test -d node_modules/@scope/lib"
        )
        engine.client.containers.run(
            f"lockstock/{NAME}:latest", ["sh", "-c", script], network_mode="bridge", remove=True
        )
    log = project.folder / ".lockstock" / "gate" / "logs" / "gate.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {r["package"] for r in records if "package" in r and r["event"] == "served"} == {
        "main",
        "@scope/lib",
    }
    assert {r["task"] for r in records if r["event"] == "served"} == {"ci"}
    assert "token" in {r.get("kind") for r in records if r["event"] == "blocked"}


def test_npm_through_a_gate(
    stocked: StockedProject, engine: DockerEngine, free_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    stocked.json("build", NAME, "--engine", "docker")
    try:
        by_token(stocked, engine, free_port)
        # An empty cache: what the image has baked in may not help.
        script = (
            "export NPM_CONFIG_CACHE=/tmp/empty; cd /workspace/web && npm ci --no-audit --no-fund "
            "&& node -p \"require('@scope/lib') + require('main')\" && npm view main version "
            "&& mkdir /tmp/new && cd /tmp/new && npm init -y >/dev/null && npm install main "
            "&& ! npm install left-pad && ! npm install --registry=https://other.example/ thing"
        )
        lock = package_lock(tarballs(), "https://registry.example")  # as most locks are written
        (stocked.folder / "web" / "package-lock.json").write_text(lock)
        capfd.readouterr()
        ended = inside(stocked, engine, script)
        told = capfd.readouterr()
        assert ended.code == 0, told
        assert "2\n1.0.0\n" in told.out
        assert {(p.package, p.version, p.locks) for p in ended.report.packages} == {
            ("main", "1.0.0", ("web",)), ("@scope/lib", "2.1.0", ("web",)),
        }  # fmt: skip
        assert {"left-pad", "other.example"} <= {
            word.partition(":")[0].removeprefix("/npm/") for word in (b.target for b in ended.report.blocked)
        }
        assert "lockstock: other.example is not in the policy" in told.err
        assert "the mirror does not hold this" in told.err
    finally:
        remove_images(engine, f"lockstock/{NAME}")
