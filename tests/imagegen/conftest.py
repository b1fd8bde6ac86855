"""What the tests of images share: one Debian base, one engine, one small image."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from imagegen.engines.docker import DockerEngine
from tests.imagegen.registries import Registry
from tests.imagegen.stocked import StockedProject
from tests.wheels import make_wheel

NAME = "pytest-sandbox"
DIRECT = "pytest-direct"
CLASSIC = "pytest-classic"
DOCKER = ("--engine", "docker")
NO_BUILDKIT = {"DOCKER_BUILDKIT": "0"}
IMAGE = f"""
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
project = "code"
checks = ["test -f hello.txt && test ! -e .git"]
env = {{ GREETING = 'a "b" $HOME \\ c', EMPTY = "" }}
"""
ALPHA = {"alpha.py": "import beta_package\n\ndef main():\n    print(beta_package.__version__)\n"}
CODE = {
    "hello.txt": "hello\n",
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "code"
version = "1.0"
dependencies = ["alpha"]
[tool.setuptools]
py-modules = ["code_of_mine"]
""",
    "code_of_mine.py": "import alpha\n",
    ".git/HEAD": "ref: refs/heads/main\n",
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The small image, and how to run something in it without a network."""

    project: StockedProject
    reference: str
    engine: DockerEngine

    def run(self, script: str, **options: Any) -> tuple[int, str]:
        """Run a shell script in a new container; give its exit code, and stdout and stderr as one.

        `options` are those of the engine.
        """
        container = self.engine.client.containers.create(
            self.reference,
            ["bash", "-c", f"exec 2>&1\n{script}"],
            network_mode="none",
            use_config_proxy=False,
            **options,
        )
        try:
            container.start()
            code = int(container.wait()["StatusCode"])
            return code, container.logs().decode()
        finally:
            container.remove(force=True)


@pytest.fixture(scope="session")
def cache() -> Path:
    """A folder that outlives test runs: making a base takes half a minute."""
    folder = Path(os.environ.get("LOCKSTOCK_TEST_CACHE", Path(__file__).parent.parent.parent / ".cache"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@pytest.fixture(scope="session")
def real_wheels(cache: Path) -> dict[str, Path]:
    """Wheels of the tools that a sandbox needs, from the index of the user's own pip."""
    folder = cache / "wheels"
    names = ("pip", "setuptools", "uv")
    if not all(_newest(folder, name) for name in names):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), *names], check=True)
    return {name: _newest(folder, name)[0] for name in names}


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    return DockerEngine()


@pytest.fixture(scope="session")
def stocked_sandbox(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, real_wheels: dict[str, Path]
) -> StockedProject:
    """A project with two small packages, the tools, and nothing else."""
    folder = tmp_path_factory.mktemp("sandbox")
    upstream = folder / "upstream"
    project = StockedProject(folder / "project")
    alpha = make_wheel(
        upstream, "alpha", "1.0", ["beta-package>=2"], files=ALPHA, scripts={"alpha": "alpha:main"}
    )
    beta = make_wheel(upstream, "beta-package", "2.1")
    project.stock(
        {
            "app": [alpha, beta],
            "app:build": [real_wheels["setuptools"]],
            ":tools": [real_wheels["uv"], real_wheels["pip"]],
        }
    )
    project.share_bases(cache / "bases")
    project.configure(IMAGE)
    write_files(project.folder / "code", CODE)
    return project


@pytest.fixture(scope="session")
def sandbox(stocked_sandbox: StockedProject, engine: DockerEngine) -> Iterator[Sandbox]:
    """An image of it, made by the Docker engine with BuildKit."""
    stocked_sandbox.configure(IMAGE)
    report = stocked_sandbox.json("build", NAME, *DOCKER)
    assert report["builder"] == "buildkit"
    yield Sandbox(stocked_sandbox, str(report["reference"]), engine)
    remove_images(engine, f"lockstock/{NAME}")


@pytest.fixture(scope="session")
def classic_sandbox(stocked_sandbox: StockedProject, engine: DockerEngine) -> Iterator[Sandbox]:
    """The same image, made with the engine's classic builder."""
    stocked_sandbox.configure(IMAGE.replace(NAME, CLASSIC))
    report = stocked_sandbox.json("build", CLASSIC, *DOCKER, environment=NO_BUILDKIT)
    assert report["builder"] == "classic"
    stocked_sandbox.configure(IMAGE)
    yield Sandbox(stocked_sandbox, str(report["reference"]), engine)
    remove_images(engine, f"lockstock/{CLASSIC}")


@pytest.fixture(scope="session")
def direct_sandbox(stocked_sandbox: StockedProject, engine: DockerEngine) -> Iterator[Sandbox]:
    """The same image, assembled without an engine and loaded into this one."""
    stocked_sandbox.configure(IMAGE.replace(NAME, DIRECT))
    report = stocked_sandbox.json("build", DIRECT, "--engine", "oci", "--output", "docker")
    stocked_sandbox.configure(IMAGE)
    yield Sandbox(stocked_sandbox, str(report["reference"]), engine)
    remove_images(engine, f"lockstock/{DIRECT}")


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def remove_images(engine: DockerEngine, repository: str) -> None:
    """Remove every name of a repository; images that have other names stay."""
    for image in engine.client.images.list(repository):
        for name in (*image.tags, *image.attrs["RepoDigests"]):
            if name.startswith((f"{repository}:", f"{repository}@")):
                with suppress(NotFound):  # the digest goes with the last tag
                    engine.client.images.remove(name)


def _newest(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*.whl"), reverse=True)


@pytest.fixture
def registry(tmp_path: Path, free_port: int) -> Iterator[Registry]:
    """A registry on loopback, plain and open to all."""
    with Registry(tmp_path, free_port) as running:
        yield running
