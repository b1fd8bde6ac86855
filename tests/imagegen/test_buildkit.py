"""BuildKit is taken where engine and client have it, and it asks no registry and learns no secret."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagegen.archive import Entry
from imagegen.engines import buildkit
from imagegen.engines.builders import choose_builder
from imagegen.engines.buildkit import BuildKit
from imagegen.engines.classic import Classic
from imagegen.engines.docker import DockerEngine
from imagegen.errors import BuildError, EngineUnavailableError
from imagegen.live import Silent
from tests.imagegen.conftest import DOCKER, NAME, Sandbox, remove_images
from tests.imagegen.registries import Registry
from tests.imagegen.stocked import path_without

REPOSITORY = "pytest-buildkit"
NETWORK = "ls /sys/class/net"


def context(base: str, *steps: str) -> tuple[Entry, ...]:
    return (Entry(path="Dockerfile", content="\n".join([f"FROM {base}", *steps, ""]).encode()),)


@contextmanager
def answering(headers: Mapping[str, str]) -> Iterator[str]:
    """An engine that says of itself what these headers say, and gives its address."""

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps({"ApiVersion": "1.41"}).encode())

        def version_string(self) -> str:
            return headers.get("Server", "Docker/20.10.24 (linux)")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class TestEngine:
    @pytest.mark.parametrize(
        ("headers", "offered"),
        [
            ({"Builder-Version": "2"}, True),
            ({"Builder-Version": "1"}, False),
            ({"Builder-Version": ""}, False),  # Podman's
            ({"Api-Version": "1.41", "Ostype": "linux"}, True),
            ({"Api-Version": "1.38", "Ostype": "linux"}, False),
            ({"Api-Version": "1.41", "Ostype": "windows"}, False),
            ({"Api-Version": "none", "Ostype": "linux"}, False),
            ({"Api-Version": "1.41", "Ostype": "linux", "Server": "Other/1"}, False),
            ({}, False),
        ],
    )
    def test_what_it_says(
        self, headers: dict[str, str], offered: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with answering(headers) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            engine = DockerEngine()

            assert buildkit.offers(engine.client) is offered
            if not offered:
                assert "the classic builder: this engine has no other" in str(choose_builder(engine))

    def test_one_that_went_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering({}) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            engine = DockerEngine()
        with pytest.raises(EngineUnavailableError):
            buildkit.offers(engine.client)


def client(folder: Path, script: str) -> Path:
    """Write a `docker` of a folder of its own."""
    folder.mkdir()
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def version(text: str, rest: str = "exit 1") -> str:
    return f'if [ "$1" = version ]; then echo {text}; else {rest}; fi'


class TestProgram:
    @pytest.mark.parametrize(
        ("script", "found"),
        [
            (version("20.10.24+dfsg1"), True),
            (version("19.03.5"), True),
            (version("18.06.3-ce"), False),
            (version("28.2.2"), False),  # without buildx
            (version("28.2.2", 'test "$1" = buildx && echo v0.24'), True),
            (version("4.3.1"), False),  # Podman's
            ("echo 20.10.24; exit 1", False),  # does not reach the engine, or is too old for it
            ("echo nothing", False),
        ],
    )
    def test_which_can(
        self, script: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = client(tmp_path / "bin", script)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/nowhere")

        assert buildkit.find_program() == (str(program) if found else None)

    def test_the_first_that_can(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders = [tmp_path / name for name in ("none", "without", "broken", "with", "later")]
        client(folders[1], version("28.2.2"))
        client(folders[2], "").write_text("")
        program = client(folders[3], version("20.10.24"))
        client(folders[4], version("20.10.24"))
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))

        assert buildkit.find_program() == str(program)

    def test_what_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The SDK's engine whatever contexts say, plugins, and nothing else of the configuration."""
        home = tmp_path / "home"
        home.mkdir()
        (home / "config.json").write_text('{"auths": {"x.example": {}}, "cliPluginsExtraDirs": ["/more"]}')
        for name, value in {
            "DOCKER_CONFIG": str(home), "DOCKER_HOST": "tcp://engine.example:2376", "DOCKER_CONTEXT": "x",
            "DOCKER_CERT_PATH": "/certs", "DOCKER_DEFAULT_PLATFORM": "linux/s390x", "BUILDX_BUILDER": "x",
            "BUILDKIT_PROGRESS": "tty",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        told = tmp_path / "told"
        client(tmp_path / "bin", f'env > {told}; cat "$DOCKER_CONFIG"/* >> {told}; echo 20.10')
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

        buildkit.find_program()

        *lines, config = told.read_text().splitlines()
        assert json.loads(config) == {"cliPluginsExtraDirs": [f"{home}/cli-plugins", "/more"]}
        said = dict(line.split("=", 1) for line in lines if line.startswith(("DOCKER_", "BUILD")))
        assert not Path(said.pop("DOCKER_CONFIG")).exists()
        assert said == {
            "DOCKER_HOST": "tcp://engine.example:2376",
            "DOCKER_TLS": "1",
            "DOCKER_CERT_PATH": "/certs",
            "DOCKER_BUILDKIT": "1",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }


@pytest.mark.docker
class TestChoice:
    def test_buildkit(self, engine: DockerEngine) -> None:
        builder = choose_builder(engine)

        assert isinstance(builder, BuildKit)
        assert str(builder) == f"BuildKit, through {builder.program}"

    def test_no_client(self, engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", path_without("docker", tmp_path / "bin"))

        builder = choose_builder(engine)

        assert isinstance(builder, Classic)
        assert "no docker command on PATH can ask for BuildKit" in str(builder)

    @pytest.mark.parametrize("value", ["0", "false", "F"])
    def test_switched_off(self, engine: DockerEngine, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_BUILDKIT", value)

        assert str(choose_builder(engine)) == "the classic builder: DOCKER_BUILDKIT is off"


@pytest.fixture
def builder(engine: DockerEngine) -> Iterator[BuildKit]:
    found = choose_builder(engine)
    assert isinstance(found, BuildKit)
    yield found
    remove_images(engine, REPOSITORY)


@pytest.fixture(scope="session")
def base(sandbox: Sandbox) -> str:
    """The name of the small image's base, which no registry has."""
    return str(sandbox.project.json("build", NAME, *DOCKER)["base"]["reference"])


def printed(engine: DockerEngine, *command: str) -> str:
    output = engine.client.containers.run(f"{REPOSITORY}:1", command, remove=True, network_mode="none")
    return str(output.decode())


def pushed(engine: DockerEngine, name: str, registry: Registry) -> str:
    """Push the first version to a registry that lives for that only, and give its digest."""
    with registry:
        events = list(engine.client.images.push(name, "1", stream=True, decode=True))
    return str(next(event["aux"]["Digest"] for event in events if "aux" in event))


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.root
class TestBuild:
    def test_without_a_network_or_a_secret(
        self,
        builder: BuildKit,
        engine: DockerEngine,
        base: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        proxy = {"httpProxy": "http://user:secret@proxy.example:3128"}
        (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": proxy}}))
        home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        (tmp_path / "cli-plugins").symlink_to(home / "cli-plugins")  # where buildx may be
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        monkeypatch.setenv("HTTPS_PROXY", proxy["httpProxy"])

        builder.build(context(base, f"RUN env > /env; {NETWORK} > /net"), f"{REPOSITORY}:1", Silent())

        variables = {line.partition("=")[0] for line in printed(engine, "cat", "/env").splitlines()}
        assert variables == {"HOME", "PATH", "PWD"}
        assert printed(engine, "cat", "/net").split() == ["lo"]
        assert not list(tmp_path.glob("[!c]*"))  # nothing is noted in the user's own configuration

    @pytest.mark.parametrize("by_digest", [False, True])
    def test_an_image_that_the_engine_has_is_asked_of_no_registry(
        self,
        by_digest: bool,
        builder: BuildKit,
        engine: DockerEngine,
        base: str,
        tmp_path: Path,
        free_port: int,
    ) -> None:
        name = f"127.0.0.1:{free_port}/pytest-base"
        reference = f"{name}:1"
        engine.client.images.get(base).tag(name, "1")
        try:
            if by_digest:
                reference = f"{name}@{pushed(engine, name, Registry(tmp_path, free_port))}"
            with socket.create_server(("127.0.0.1", free_port)) as listening:
                builder.build(context(reference, "COPY Dockerfile /two"), f"{REPOSITORY}:1", Silent())
                listening.setblocking(False)
                with pytest.raises(BlockingIOError):  # nobody has come
                    listening.accept()
        finally:
            remove_images(engine, name)

        assert engine.find(f"{REPOSITORY}:1")

    def test_a_failed_step(
        self, builder: BuildKit, engine: DockerEngine, base: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        steps = ("RUN echo fine", "RUN seq 100 && printf 'a\\r#1 ERROR: b\\n\\033[2J' && exit 7")

        with pytest.raises(BuildError) as raised:
            builder.build(context(base, *steps), f"{REPOSITORY}:1", Silent())

        assert raised.value.where.startswith(f"{REPOSITORY}:1, step 3/3 RUN seq 100")
        assert "7" in raised.value.reason.split("exit code:")[1]
        shown = capfd.readouterr().err.splitlines()
        assert "  │ 100" in shown
        assert "  │ 50" not in shown
        assert not any("\x1b" in line for line in shown)
        assert engine.find(f"{REPOSITORY}:1") is None

    def test_a_file_that_goes_while_it_is_sent(
        self, builder: BuildKit, engine: DockerEngine, base: str, tmp_path: Path
    ) -> None:
        gone = Entry(path="z", content=tmp_path / "gone")

        with pytest.raises(FileNotFoundError):
            builder.build((*context(base, "RUN true"), gone), f"{REPOSITORY}:1", Silent())

        assert engine.find(f"{REPOSITORY}:1") is None

    def test_an_engine_that_does_not_answer(
        self, builder: BuildKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

        with pytest.raises(BuildError) as raised:
            builder.build(context("scratch"), f"{REPOSITORY}:1", Silent())

        assert f"{tmp_path}/none.sock" in raised.value.reason
