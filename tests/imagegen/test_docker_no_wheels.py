"""`wheels = false`: what is installed is there, and nothing to install from; both engines give the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imagegen.engines.docker import DockerEngine
from tests.imagegen.conftest import IMAGE, NAME, Sandbox, remove_images
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_docker_same import DIFFERENT, ONLY_DOCKER, explained, files

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
LEAN = {"docker": "pytest-lean-docker", "oci": "pytest-lean-oci"}


def lean(name: str) -> str:
    return f"{IMAGE.replace(NAME, name)}wheels = false\n"


@pytest.fixture(scope="module")
def images(stocked_sandbox: StockedProject, engine: DockerEngine) -> Iterator[dict[str, Sandbox]]:
    """One image of each engine."""
    made = {}
    stocked_sandbox.configure("".join(lean(name) for name in LEAN.values()))
    for kind, name in LEAN.items():
        report = stocked_sandbox.json("build", name, "--engine", kind, "--output", "docker")
        assert (report["wheels"], report["installed"]) == (0, 2)
        made[kind] = Sandbox(stocked_sandbox, str(report["reference"]), engine)
    yield made
    for name in LEAN.values():
        remove_images(engine, f"lockstock/{name}")


@pytest.fixture(params=LEAN)
def image(request: pytest.FixtureRequest, images: dict[str, Sandbox]) -> Sandbox:
    return images[request.param]


def test_both_engines_give_the_same_files(images: dict[str, Sandbox]) -> None:
    docker, direct = files(images["docker"]), files(images["oci"])
    either, both = set(docker) ^ set(direct), set(docker) & set(direct)

    assert sorted(path for path in either if not explained(path, ONLY_DOCKER)) == []
    assert (
        sorted(path for path in both if docker[path] != direct[path] and not explained(path, DIFFERENT)) == []
    )
    for path in both:
        ours, theirs = direct[path], docker[path]
        assert (ours.kind, ours.mode, ours.owner) == (theirs.kind, theirs.mode, theirs.owner), path


def test_no_layer_has_the_wheels(images: dict[str, Sandbox], stocked_sandbox: StockedProject) -> None:
    docker, direct = (images[kind].engine.find(images[kind].reference) for kind in LEAN)
    uv = next(file for file in stocked_sandbox.layout.snapshots.current().artifacts if file.name == "uv")

    assert docker
    assert direct
    assert abs(docker.size - direct.size) < uv.size / 2


def test_what_is_installed_works(image: Sandbox) -> None:
    code, output = image.run(
        "set -e; alpha; pip check; uv --version; test ! -e /opt/lockstock/wheels; python -m venv x\n"
        "python -v -c 'import alpha' 2>&1 | grep -q 'alpha.cpython-311.pyc matches /opt/'"
    )

    assert code == 0, output


@pytest.mark.parametrize(
    "command",
    [
        "pip install alpha --force-reinstall",
        "pip install -r /opt/lockstock/requirements.txt --ignore-installed",
        "python -m venv x; x/bin/pip install alpha",
        "uv pip install --reinstall alpha",
        "uv venv -q x; VIRTUAL_ENV=$PWD/x uv pip sync /opt/lockstock/requirements.txt",
    ],
)
def test_installing_fails_and_says_why(image: Sandbox, command: str) -> None:
    code, output = image.run(command)

    said = [line for line in output.splitlines() if "this sandbox is offline" in line]
    assert code != 0
    assert len(said) == 1, output
    assert "alpha" in said[0]
    assert said[0].endswith("wheels to install from were left out of this image (wheels = false)")


def test_verify_asks_for_no_more(images: dict[str, Sandbox], stocked_sandbox: StockedProject) -> None:
    report = stocked_sandbox.json("verify", LEAN["docker"])

    checks = {check["name"]: check["output"] for check in report["checks"]}
    assert report["ok"] is True
    assert "re-install from the baked wheels" not in checks
    assert "(wheels = false)" in checks["no wheels to install from, and pip says so"]


def test_verify_finds_wheels_that_should_not_be_there(
    images: dict[str, Sandbox], stocked_sandbox: StockedProject
) -> None:
    name = LEAN["docker"]
    stocked_sandbox.configure("".join(lean(name) for name in LEAN.values()).replace("wheels = false", ""))
    stocked_sandbox.json("build", name, "--engine", "oci", "--output", "docker")
    stocked_sandbox.configure("".join(lean(name) for name in LEAN.values()))

    ended = stocked_sandbox.imagegen("verify", name)

    assert ended.returncode != 0
    assert "no wheels to install from" in ended.stderr
