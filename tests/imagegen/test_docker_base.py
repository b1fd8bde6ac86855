"""docker: bases without a Dockerfile: an image of the engine, its layers taken out as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen.engines.docker import DockerEngine
from tests.imagegen.conftest import NAME, Sandbox, remove_images
from tests.imagegen.stocked import StockedProject
from tests.wheels import make_wheel

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
OTHER = "pytest-docker-base"
IMAGE = f"""
[images.{OTHER}]
base = "docker:{{base}}"
locks = ["app"]
"""


def test_its_layers_are_the_lowest_and_the_image_works(
    sandbox: Sandbox, engine: DockerEngine, tmp_path: Path
) -> None:
    base = sandbox.project.json("build", NAME, "--engine", "docker")["base"]["reference"]
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path / "up", "gamma", "1.0")]})
    project.configure(IMAGE.format(base=base))
    try:
        report = project.json("build", OTHER, "--output", "docker")

        assert report["digest"] != report["manifest"]
        lowest = engine.client.images.get(base).attrs["RootFS"]["Layers"]
        layers = engine.client.images.get(report["reference"]).attrs["RootFS"]["Layers"]
        assert layers[: len(lowest)] == lowest
        code, output = Sandbox(project, report["reference"], engine).run(
            "python -c 'import gamma' && pip check"
        )
        assert code == 0, output
        assert project.json("build", OTHER, "--output", "docker")["changed"] is False
    finally:
        remove_images(engine, f"lockstock/{OTHER}")


def test_one_that_is_not_understood_is_left_to_the_engine(engine: DockerEngine, tmp_path: Path) -> None:
    repository = "lockstock/pytest-empty-base"
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    engine.client.images.build(path=str(context), tag=f"{repository}:1", network_mode="none")
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path / "up", "gamma", "1.0")]})
    project.configure(IMAGE.format(base=f"{repository}:1"))
    try:
        alone = project.imagegen("build", OTHER, "--engine", "oci")
        either = project.imagegen("build", OTHER)
    finally:
        remove_images(engine, repository)

    assert alone.returncode == 61
    assert "the base is not understood: it is no Debian system with Python" in alone.stderr
    assert "building with the Docker engine" in either.stderr
    assert either.returncode == 45  # for that one finds no Python in it either
