"""docker: bases without a Dockerfile: an image of the engine, its layers taken out as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen.engines.docker import DockerEngine
from tests.imagegen.conftest import NAME, Sandbox, remove_images
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_push import Registry
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
        pin = f'version = 1\n[base]\n"docker:{repository}:1" = "sha256:{"0" * 64}"\n'
        (project.folder / "bases.lock").write_text(pin)
        pinned = project.imagegen("build", OTHER)
    finally:
        remove_images(engine, repository)

    assert alone.returncode == 61
    assert "the base is not understood: it is no Debian system with Python" in alone.stderr
    assert "building with the Docker engine" in either.stderr
    assert pinned.returncode == 41
    assert f"bases.lock pins it to sha256:{'0' * 64}, and the engine cannot have it" in pinned.stderr
    assert either.returncode == 45  # for that one finds no Python in it either


def test_a_lock_follows_the_registry_and_a_pin_asks_nobody(
    engine: DockerEngine, tmp_path: Path, free_port: int
) -> None:
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path / "up", "gamma", "1.0")]})
    name = f"127.0.0.1:{free_port}/pytest-locked-base"
    project.configure(IMAGE.format(base=f"{name}:1"))
    lock = project.folder / "bases.lock"
    try:
        with Registry(tmp_path, free_port):
            old, new = (pushed(engine, tmp_path / content, name) for content in ("old", "new"))
            tag(engine, f"{name}@{old}", name)
            renewed = project.imagegen("lock-base")
            pinned = lock.read_text()
        tag(engine, f"{name}@{old}", name)
        tag(engine, f"{name}@{old}", name, "2")
        engine.client.images.remove(f"{name}:1")
        alone = project.imagegen("build", OTHER, "--engine", "oci", "--json")
        tag(engine, f"{name}:2", name)
        unreached = project.imagegen("lock-base")
    finally:
        remove_images(engine, name)

    assert renewed.returncode == 0, renewed.stderr
    assert f'"docker:{name}:1" = "{new}"' in pinned
    assert (alone.returncode, "not understood" in alone.stderr) == (61, True), alone.stderr
    assert unreached.returncode == 0
    assert f"docker:{name}:1 stays as the engine has it" in unreached.stderr
    assert f'= "{old}"' in lock.read_text()


def pushed(engine: DockerEngine, context: Path, name: str) -> str:
    """Make an image of nothing but a file, and give its digest in the registry."""
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\nCOPY Dockerfile /{context.name}\n")
    engine.client.images.build(path=str(context), tag=f"{name}:1", network_mode="none")
    said = engine.client.images.push(name, "1", stream=True, decode=True)
    return str(next(event["aux"]["Digest"] for event in said if "aux" in event))


def tag(engine: DockerEngine, reference: str, name: str, version: str = "1") -> None:
    assert engine.client.images.get(reference).tag(name, version)


def test_a_registry_gives_it_to_both_engines(
    sandbox: Sandbox, engine: DockerEngine, tmp_path: Path, free_port: int
) -> None:
    base = engine.client.images.get(
        sandbox.project.json("build", NAME, "--engine", "docker")["base"]["reference"]
    )
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path / "up", "gamma", "1.0")]})
    with Registry(tmp_path, free_port) as registry:
        name = f"{registry.host}/pytest-base"
        base.tag(name, "1")
        pushed = list(engine.client.images.push(name, "1", stream=True, decode=True))
        project.configure(IMAGE.replace("docker:", "registry:").format(base=f"{name}:1"))
        try:
            ours = project.json("build", OTHER, "--engine", "oci", "-o", "oci:out")
            theirs = project.json("build", OTHER, "--engine", "docker")
            rendered = project.imagegen("render", OTHER, "-o", "context")
        finally:
            remove_images(engine, name)
            remove_images(engine, f"lockstock/{OTHER}")

    digest = next(event["aux"]["Digest"] for event in pushed if "aux" in event)
    assert ours["base"] == {"name": f"registry:{name}:1", "reference": f"{name}@{digest}", "digest": digest}
    assert (theirs["base"], theirs["reference"]) == (ours["base"], ours["reference"])
    assert rendered.returncode == 0
    assert f"FROM {name}@{digest}\n" in (project.folder / "context" / "Dockerfile").read_text()
