"""Images are built once for each content, whole or not at all."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from imagegen.context import templates_digest
from imagegen.engines.docker import DockerEngine
from tests.imagegen.conftest import DOCKER, NAME, NO_BUILDKIT, Sandbox, remove_images
from tests.imagegen.stocked import StockedProject
from tests.wheels import digest, make_sdist, make_wheel

OTHER = "pytest-other"
BUILDERS = pytest.mark.parametrize("builder", [{}, NO_BUILDKIT], ids=["buildkit", "classic"])
IMAGE = """
[images.pytest-other]
base = "{base}"
locks = ["app"]
"""


@pytest.fixture
def other(tmp_path: Path, sandbox: Sandbox, engine: DockerEngine) -> Iterator[StockedProject]:
    """A project with an image of its own, whose base is that of the small image."""
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path, "alpha", "1.0")]})
    project.share_bases(sandbox.project.layout.root / "bases")
    project.configure(IMAGE.format(base="debian:bookworm"))
    before = _unnamed(engine)
    yield project
    remove_images(engine, f"lockstock/{OTHER}")
    for left in _unnamed(engine) - before:  # what the engine keeps of a build that failed, to go on from
        engine.client.images.remove(left)


@pytest.fixture
def registry(tmp_path: Path, free_port: int) -> Iterator[str]:
    """A registry on loopback, which engines take without TLS."""
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{free_port}'}}\nlog: {{level: error}}\n"
    )
    with subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=subprocess.DEVNULL) as process:
        while socket.socket().connect_ex(("127.0.0.1", free_port)):
            assert process.poll() is None, "the registry did not start"
            time.sleep(0.05)
        yield f"127.0.0.1:{free_port}"
        process.terminate()


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.root
class TestWithAnEngine:
    def test_unchanged_content_is_found_at_once(self, sandbox: Sandbox) -> None:
        started = time.monotonic()
        report = sandbox.project.json("build", NAME, *DOCKER)

        assert report["reference"] == sandbox.reference
        assert report["changed"] is False
        assert report["builder"] is None
        assert report["seconds"] < 1
        assert time.monotonic() - started < 5

    def test_labels_tell_where_it_comes_from(self, sandbox: Sandbox) -> None:
        labels = sandbox.engine.client.images.get(sandbox.reference).labels
        lock = digest(sandbox.project.folder / "requirements.txt")

        assert labels["io.lockstock.lock.app"] == f"sha256:{lock}"
        assert labels["org.opencontainers.image.title"] == NAME
        assert labels["org.opencontainers.image.version"] == sandbox.reference.rpartition(":")[2]
        assert labels["org.opencontainers.image.base.name"] == "debian:bookworm"
        assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")
        assert "org.opencontainers.image.created" not in labels

    def test_the_image_carries_no_trace_of_the_host(self, sandbox: Sandbox) -> None:
        code, output = sandbox.run(
            "cat /etc/apt/sources.list /etc/apt/sources.list.d/*; ls /var/lib/apt/lists /var/log"
        )

        assert code == 0
        assert "deb" not in output
        assert "://" not in output
        assert ".log" not in output

    def test_a_changed_lock_makes_a_new_image_and_keeps_the_old(
        self, other: StockedProject, engine: DockerEngine, tmp_path: Path
    ) -> None:
        first = other.json("build", OTHER, *DOCKER)
        other.stock({"app": [make_wheel(tmp_path, "alpha", "2.0")]})
        other.configure(IMAGE.format(base="debian:bookworm"))
        second = other.json("build", OTHER, *DOCKER)

        assert first["builder"] == second["builder"] == "buildkit"
        assert first["reference"] != second["reference"]
        assert second["changed"] is True
        assert engine.find(f"lockstock/{OTHER}:latest") == engine.find(second["reference"])
        assert engine.find(first["reference"]) is not None

    def test_an_sdist_is_built_without_a_network(
        self, other: StockedProject, real_wheels: dict[str, Path], tmp_path: Path
    ) -> None:
        source = make_sdist(tmp_path, "gamma", "1.0")
        other.stock({"app": [source], "app:build": [real_wheels["setuptools"]]})
        other.configure(IMAGE.format(base="debian:bookworm"))

        report = other.json("build", OTHER, *DOCKER)

        assert (report["installed"], report["wheels"]) == (1, 2)
        assert other.json("verify", OTHER)["ok"] is True

    def test_a_base_of_the_engine_is_pinned(
        self, other: StockedProject, sandbox: Sandbox, engine: DockerEngine
    ) -> None:
        base = sandbox.project.json("build", NAME, *DOCKER)["base"]["reference"]
        other.configure(IMAGE.format(base=f"docker:{base}"))

        report = other.json("build", OTHER, *DOCKER)
        rendered = other.imagegen("render", OTHER, "-o", "out")

        assert report["base"]["name"] == base
        assert report["base"]["digest"] == sandbox.engine.find(base).id  # type: ignore[union-attr]
        assert rendered.returncode == 0, rendered.stderr
        # An id after FROM is a name on Docker's registry to BuildKit.
        (name,) = re.findall(r"^FROM (\S+)", (other.folder / "out" / "Dockerfile").read_text(), re.MULTILINE)
        assert name == f"lockstock/base:{report['base']['digest'].removeprefix('sha256:')}"
        named = engine.find(name)
        assert named is not None
        assert named.id == report["base"]["digest"]
        engine.client.images.remove(name)

    def test_a_base_of_a_registry_is_pulled_and_pinned(
        self, other: StockedProject, sandbox: Sandbox, registry: str
    ) -> None:
        client = sandbox.engine.client
        repository = f"{registry}/pytest-base"
        base = client.images.get(sandbox.project.json("build", NAME, *DOCKER)["base"]["reference"])
        base.tag(repository, "1")
        pushed = list(client.images.push(repository, "1", stream=True, decode=True))
        client.images.remove(f"{repository}:1")
        other.configure(IMAGE.format(base=f"docker:{repository}:1"))
        try:
            report = other.json("build", OTHER, *DOCKER)
        finally:
            remove_images(sandbox.engine, repository)

        digest = next(event["aux"]["Digest"] for event in pushed if "aux" in event)
        assert report["base"] == {
            "name": f"{repository}:1",
            "reference": f"{repository}@{digest}",
            "digest": digest,
        }

    def test_a_base_that_nobody_has(self, other: StockedProject, registry: str) -> None:
        other.configure(IMAGE.format(base=f"docker:{registry}/none:1"))

        ended = other.imagegen("build", OTHER, *DOCKER)

        assert ended.returncode == 41
        assert f"docker:{registry}/none:1: the engine cannot have it: " in ended.stderr
        assert "docker login" in ended.stderr

    def test_a_base_of_another_python_is_refused(self, other: StockedProject, engine: DockerEngine) -> None:
        other.stock({"app": []})
        settings = (other.folder / "lockstock.toml").read_text()
        (other.folder / "lockstock.toml").write_text(
            settings.replace('"3.11"', '"3.12"') + IMAGE.format(base="debian:bookworm")
        )
        stock = other.layout.snapshots.current()
        assert stock is not None
        moved = stock.to_bytes().replace(b'"3.11/', b'"3.12/')
        other.layout.snapshots.switch(other.layout.snapshots.add(type(stock).from_bytes(moved)))

        ended = other.imagegen("build", OTHER, *DOCKER)

        assert ended.returncode == 45
        assert "has Python 3.11" in ended.stderr
        assert "3.12/linux" in ended.stderr
        assert engine.find(f"lockstock/{OTHER}:latest") is None

    @BUILDERS
    def test_a_failed_step_shows_its_last_lines_and_leaves_no_image(
        self, builder: Mapping[str, str], other: StockedProject, engine: DockerEngine, tmp_path: Path
    ) -> None:
        good = other.json("build", OTHER, *DOCKER)
        other.stock({"app": [make_sdist(tmp_path, "gamma", "1.0")]})  # and nothing to build it with
        other.configure(IMAGE.format(base="debian:bookworm"))

        ended = other.imagegen("build", OTHER, *DOCKER, environment=builder)

        assert ended.returncode == 42
        assert "│ " in ended.stderr
        assert "setuptools" in ended.stderr
        assert "pip install" in ended.stderr.splitlines()[-2]
        assert "Traceback" not in ended.stderr
        assert engine.find(f"lockstock/{OTHER}:latest") == engine.find(good["reference"])
        assert not _build_containers(engine)

    @BUILDERS
    def test_killed_in_the_middle_and_run_again(
        self, builder: Mapping[str, str], other: StockedProject, engine: DockerEngine, tmp_path: Path
    ) -> None:
        good = other.json("build", OTHER, *DOCKER)
        unheard = {"alpha.py": f"made = {time.time_ns()}\n"}  # or BuildKit has the step of an earlier run
        other.stock({"app": [make_wheel(tmp_path, "alpha", "3.0", files=unheard)]})
        other.configure(IMAGE.format(base="debian:bookworm"))

        variables = {**builder, "TMPDIR": str(tmp_path)}  # one that is killed leaves a folder there
        command = ["env", *(f"{name}={value}" for name, value in variables.items())]
        _kill_when([*command, *other.command("build", OTHER, *DOCKER)], other.folder, "pip install")

        assert engine.find(f"lockstock/{OTHER}:latest") == engine.find(good["reference"])
        report = other.json("build", OTHER, *DOCKER, environment=builder)
        assert report["changed"] is True
        assert engine.find(f"lockstock/{OTHER}:latest") == engine.find(report["reference"])
        assert not _build_containers(engine)

    def test_a_name_that_went_astray_is_set_again(self, other: StockedProject, engine: DockerEngine) -> None:
        report = other.json("build", OTHER, *DOCKER)
        engine.client.images.remove(f"lockstock/{OTHER}:latest")

        assert other.json("build", OTHER, *DOCKER)["changed"] is False
        assert engine.find(f"lockstock/{OTHER}:latest") == engine.find(report["reference"])


class TestBadInput:
    @pytest.fixture
    def project(self, tmp_path: Path) -> StockedProject:
        project = StockedProject(tmp_path / "project")
        project.stock({"app": [make_wheel(tmp_path, "alpha", "1.0")]})
        project.configure(IMAGE.format(base="debian:bookworm"))
        return project

    def test_no_engine(self, project: StockedProject, tmp_path: Path) -> None:
        nothing = {"DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
        ended = project.imagegen("build", OTHER, *DOCKER, environment=nothing)

        assert ended.returncode == 40
        assert "no Docker engine answers" in ended.stderr
        assert "hint: start one" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_verify_without_an_engine_asks_for_the_image_in_the_mirror(
        self, project: StockedProject, tmp_path: Path
    ) -> None:
        nothing = {"DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
        ended = project.imagegen("verify", OTHER, environment=nothing)

        assert ended.returncode == 46
        assert "hint: run `imagegen build" in ended.stderr

    def test_no_mmdebstrap(self, project: StockedProject, tmp_path: Path) -> None:
        ended = project.imagegen(
            "render", OTHER, "-o", str(tmp_path / "out"), environment={"PATH": str(tmp_path)}
        )

        assert ended.returncode == 41
        assert "apt-get install --no-install-recommends mmdebstrap" in ended.stderr

    def test_an_empty_mirror(self, tmp_path: Path) -> None:
        project = StockedProject(tmp_path)
        (tmp_path / "requirements.txt").write_text("")
        project.configure(IMAGE.format(base="debian:bookworm"))

        ended = project.imagegen("render", OTHER, "-o", str(tmp_path / "out"))

        assert ended.returncode == 44
        assert "run `mirror refresh`" in ended.stderr

    @pytest.mark.network
    @pytest.mark.root
    def test_an_unknown_suite(self, project: StockedProject, tmp_path: Path) -> None:
        project.configure(IMAGE.format(base="debian:nosuchsuite"))

        ended = project.imagegen("render", OTHER, "-o", str(tmp_path / "out"))

        assert ended.returncode == 41
        assert "check the suite" in ended.stderr
        assert not list((project.layout.root / "bases").glob("*.t*"))


@pytest.mark.network
@pytest.mark.root
class TestRender:
    def test_writes_what_build_sends(self, tmp_path: Path, cache: Path) -> None:
        wheel = make_wheel(tmp_path, "alpha", "1.0")
        project = StockedProject(tmp_path / "project")
        project.stock({"app": [wheel]})
        project.share_bases(cache / "bases")
        project.configure(IMAGE.format(base="debian:bookworm"))

        for _ in range(2):  # again, in the place of the first
            ended = project.imagegen("render", OTHER, "-o", "out")
            assert ended.returncode == 0, ended.stderr

        out = project.folder / "out"
        assert digest(out / "wheels" / wheel.name) == digest(wheel)
        assert (out / "Dockerfile").read_text().count("FROM lockstock/base:bookworm-") == 1
        assert (out / "rootfs/etc/pip.conf").exists()
        assert not (out / "rootfs/usr/local/bin/uv").exists()
        assert not list(project.folder.glob(".out-*"))

    def test_leaves_a_strange_folder_alone(self, tmp_path: Path, cache: Path) -> None:
        project = StockedProject(tmp_path / "project")
        project.stock({"app": [make_wheel(tmp_path, "alpha", "1.0")]})
        project.share_bases(cache / "bases")
        project.configure(IMAGE.format(base="debian:bookworm"))
        (project.folder / "out").mkdir()
        (project.folder / "out" / "mine.txt").write_text("mine")

        ended = project.imagegen("render", OTHER, "-o", "out")

        assert ended.returncode == 42
        assert [file.name for file in (project.folder / "out").iterdir()] == ["mine.txt"]


def test_templates_have_one_digest() -> None:
    assert templates_digest() == templates_digest()
    assert len(templates_digest()) == 64


def _unnamed(engine: DockerEngine) -> set[str]:
    return {str(image.id) for image in engine.client.images.list(filters={"dangling": True})}


def _kill_when(command: list[str], folder: Path, line: str) -> None:
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if line in said:
                break
        else:
            pytest.fail("it ended before it could be killed")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def _build_containers(engine: DockerEngine) -> list[str]:
    """Containers of build steps, which the engine itself removes a moment after its client is gone."""
    for _ in range(50):
        found = [
            c.name for c in engine.client.containers.list(all=True) if "lockstock/" in str(c.attrs["Config"])
        ]
        if not found:
            return []
        time.sleep(0.2)
    return [str(name) for name in found]
