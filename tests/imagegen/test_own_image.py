"""lockstock's own container image, made as `make image` makes it and run as the CronJob runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from imagegen.engines.docker import DockerEngine
from mirror.schedule import Job, Scheduler, render
from tests.imagegen.conftest import remove_images
from tests.index_server import IndexServer
from tests.project import CONFIG
from tests.wheels import digest, make_wheel

ROOT = Path(__file__).parent.parent.parent
IMAGE = f"lockstock:{version('lockstock')}"
SOURCES = ("mirror", "imagegen", "lockfiles", "templates", "examples/lockstock")
USER = 10001


def test_its_lock_has_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    text = (ROOT / "examples" / "lockstock" / "requirements.txt").read_text()
    pins = {canonicalize_name(m[1]): m[2] for m in re.finditer(r"(?m)^([\w.-]+)==([\w.]+)", text)}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, cache: Path, engine: DockerEngine) -> Iterator[str]:
    root = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        left_out = shutil.ignore_patterns("__pycache__", ".lockstock", "dist")
        shutil.copytree(ROOT / name, root / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    (root / "examples" / "lockstock" / ".lockstock").mkdir()
    (root / "examples" / "lockstock" / ".lockstock" / "bases").symlink_to(cache / "bases")
    command = [sys.executable, str(root / "examples" / "lockstock" / "build.py")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == IMAGE
    yield IMAGE
    for repository in ("lockstock", "lockstock/lockstock"):
        remove_images(engine, repository)


def container(job: dict[str, Any], volumes: dict[str, Path], *more: str) -> list[str]:
    """Give the `docker run` command for what a CronJob says of its container."""
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (spec,) = pod["containers"]
    user, rights = pod["securityContext"], spec["securityContext"]
    assert (user["runAsNonRoot"], user["runAsUser"]) == (True, USER)
    assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
    command = ["docker", "run", "--rm", f"--user={USER}:{USER}", "--read-only", "--network=host"]
    command += [
        "--security-opt=no-new-privileges",
        *(f"--cap-drop={c}" for c in rights["capabilities"]["drop"]),
    ]
    command += [f"--env={each['name']}={each['value']}" for each in spec["env"]]
    for mount in spec["volumeMounts"]:
        place, end = mount["mountPath"], ":ro" if mount.get("readOnly") else ""
        volume = volumes.get(mount["name"])
        command.append(f"--volume={volume}:{place}{end}" if volume else f"--tmpfs={place}")
    return [*command, *more, spec["image"], *spec["command"], *spec["args"]]


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.root
def test_it_refreshes_a_mirror_as_the_cronjob_does(image: str, tmp_path: Path, free_port: int) -> None:
    wheel = make_wheel(tmp_path / "upstream", "flask", "3.0.0")
    volumes = {"mirror": tmp_path / "volume", "config": tmp_path / "config"}
    for folder in volumes.values():
        folder.mkdir()
    shutil.chown(volumes["mirror"], USER, USER)
    tmp_path.chmod(0o755)
    lines = CONFIG.format(port=free_port, mirror='path = "/var/lib/lockstock"')
    (volumes["config"] / "lockstock.toml").write_text(lines)
    (volumes["config"] / "requirements.txt").write_text(f"flask==3.0.0 --hash=sha256:{digest(wheel)}\n")
    job = Job(program="mirror", config="lockstock.toml", folder=".", user="me", image=image)
    (text,) = render(Scheduler.KUBERNETES, job).values()
    with IndexServer(wheel.parent) as index:
        asking = f"--env=PIP_INDEX_URL={index.index}"
        command = container(YAML(typ="safe").load(text), volumes, asking)
        ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert (report["fetched"], report["changed"]) == (1, True)
    held = volumes["mirror"] / "tree" / "current" / "simple" / "flask" / "index.html"
    assert digest(wheel) in held.read_text()
    assert held.stat().st_uid == USER


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.root
def test_it_has_both_commands(image: str) -> None:
    for command in ("mirror", "imagegen"):
        ended = subprocess.run(
            ["docker", "run", "--rm", "--network=none", image, command, "--version"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.stdout == f"lockstock {version('lockstock')}\n", ended.stderr
