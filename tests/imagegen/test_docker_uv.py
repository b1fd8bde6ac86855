"""What a sandbox needs, with a real uv.lock and real tools: without a network, as any user, read-only."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen.engines.docker import DockerEngine
from tests.imagegen.conftest import Sandbox, remove_images, write_files
from tests.imagegen.stocked import StockedProject
from tests.index_server import IndexServer
from tests.wheels import make_wheel

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
NAME = "pytest-uv"
IMAGE = f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\n'
PROJECT = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "service"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["alpha"]
[dependency-groups]
dev = ["pytest", "build"]
[tool.setuptools]
py-modules = ["service"]
[tool.uv]
environments = ["sys_platform == 'linux' and os_name == 'posix'"]
""",
    "service.py": "import alpha\n\nVERSION = alpha.__version__\n",
    "test_service.py": "import service\n\ndef test_version():\n    assert service.VERSION == '1.0'\n",
    "requirements.txt": "alpha==1.0\npytest\n",
}


@pytest.fixture(scope="module")
def tools(cache: Path) -> list[Path]:
    """Wheels of pytest and build, with what they need, from the index of the user's own pip."""
    folder = cache / "wheels-of-tools"
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), "pytest", "build"], check=True)
        (folder / "done").touch()
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, real_wheels: dict[str, Path], tools: list[Path]
) -> StockedProject:
    """A project locked by uv against an index on loopback, which is gone when the image is used."""
    made = StockedProject(tmp_path_factory.mktemp("uv") / "project", lock="uv.lock")
    upstream = made.folder.parent / "upstream"
    locked = [make_wheel(upstream, "alpha", "1.0"), *tools]
    for tool in tools:
        (upstream / tool.name).symlink_to(tool)
    write_files(made.folder, PROJECT)
    with IndexServer(upstream) as index:
        command = [sys.executable, "-m", "uv", "lock", "--quiet", "--no-config", "--no-cache"]
        command += ["--python", sys.executable, "--default-index", f"{index.url}/simple/"]
        subprocess.run(command, cwd=made.folder, check=True)
    made.stock(
        {
            "app": locked,
            "app:build": [real_wheels["setuptools"]],
            ":tools": [real_wheels["uv"], real_wheels["pip"]],
        }
    )
    made.share_bases(cache / "bases")
    made.configure(IMAGE)
    return made


@pytest.fixture(scope="module")
def image(project: StockedProject, engine: DockerEngine) -> Iterator[Sandbox]:
    report = project.json("build", NAME, "--engine", "oci", "-o", "docker")
    yield Sandbox(project, str(report["reference"]), engine)
    remove_images(engine, f"lockstock/{NAME}")


def unpacked(project: StockedProject) -> str:
    """A script that lays the project out below /tmp and goes there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (*PROJECT, "uv.lock"):
            archive.add(project.folder / name, name)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"set -e\nmkdir /tmp/code && cd /tmp/code && echo {data} | base64 -d | tar -xz --no-same-owner\n"


WORKS = {
    "uv sync --frozen": "uv sync --frozen && python -c 'import service'",
    "uv sync, again": "uv sync --frozen && uv sync --frozen --check",
    "the lock stays": "cp uv.lock x && uv sync --frozen && uv run --frozen pytest -q && cmp uv.lock x",
    "uv run --offline": "uv run --offline pytest -q && uv run --frozen --offline pytest -q",
    "pip is still there after a sync": "uv sync --frozen && pip check",
    "pip install -r": "python -m venv x && x/bin/pip install -r requirements.txt && x/bin/pytest -q",
    "python -m build": "python -m build && ls dist/service-1.0-py3-none-any.whl dist/service-1.0.tar.gz",
}


@pytest.mark.parametrize("script", WORKS.values(), ids=WORKS.keys())
def test_works_without_a_network(image: Sandbox, project: StockedProject, script: str) -> None:
    code, output = image.run(unpacked(project) + script)

    assert code == 0, output


def test_the_lock_names_an_index_that_is_gone(image: Sandbox, project: StockedProject) -> None:
    """So nothing that works here is owed to it: in an environment of its own, uv has nothing to take."""
    code, output = image.run(f"{unpacked(project)}unset UV_PROJECT_ENVIRONMENT; uv sync --frozen")

    assert code != 0
    assert "127.0.0.1" in (project.folder / "uv.lock").read_text()
    assert "is not stocked" in output


ANYBODY = {"user": "12345:12345", "read_only": True, "tmpfs": {"/tmp": ""}}
WORKS_READ_ONLY = {
    "pip in a fresh environment": "python -m venv /tmp/v && /tmp/v/bin/python -m pip install -q"
    " -r requirements.txt && /tmp/v/bin/python -m pytest -q",
    "pytest as it is": "python -m pytest -q",
    "uv": "uv venv -q /tmp/v && uv pip install -q --python /tmp/v -r requirements.txt"
    " && /tmp/v/bin/python -m pytest -q",
    "uv pip sync": "uv venv -q /tmp/v && uv pip sync -q --python /tmp/v /opt/lockstock/requirements.txt"
    " && /tmp/v/bin/python -m pytest -q",
    "uv run": "uv run --no-sync python -m pytest -q",
    "git": "git init -q . && git add . && git commit -qm first && test $(git log --format=%an) = sandbox",
}


@pytest.mark.parametrize("script", WORKS_READ_ONLY.values(), ids=WORKS_READ_ONLY.keys())
def test_works_read_only_as_anybody(image: Sandbox, project: StockedProject, script: str) -> None:
    code, output = image.run(unpacked(project) + script, **ANYBODY)

    assert code == 0, output


def test_it_is_read_only_and_anybody(image: Sandbox) -> None:
    code, output = image.run("id -u; touch /workspace/x || touch ~/x || touch /x", **ANYBODY)

    assert code != 0
    assert output.startswith("12345\n")
    assert output.count("Read-only file system") == 3


def test_configuration_names_the_environment(image: Sandbox) -> None:
    config = image.engine.client.images.get(image.reference).attrs["Config"]

    assert "UV_PROJECT_ENVIRONMENT=/opt/lockstock/venv" in config["Env"]
    assert config["Entrypoint"] == ["/usr/bin/tini", "-s", "--"]
    assert config["Cmd"] == ["/bin/bash"]
