"""Pushing to a real registry: with TLS and a password, without, cut off, and refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from imagegen import credentials
from imagegen.credentials import Credentials, find_credentials
from imagegen.errors import BadReferenceError, PushError
from imagegen.live import Silent
from imagegen.push import Push, read_lock, tags_of, write_lock
from imagegen.reference import Reference
from imagegen.referrers import MANIFEST_TYPE
from imagegen.registry import Repository
from lockfiles.errors import LockError
from tests.imagegen.registries import (
    AUTH,
    PLAN,
    SECRET,
    TLS,
    Made,
    Registry,
    docker_config,
    write_certificate,
)
from tests.imagegen.test_referrers import Fake


@pytest.fixture
def locked(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """With TLS and a password; its own authority is trusted."""
    write_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with Registry(tmp_path, free_port, TLS + AUTH, "https") as running:
        yield running


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "mirror")


class TestPush:
    def test_everything_arrives_and_the_tag_stands_for_it(self, registry: Registry, made: Made) -> None:
        pushed = made.push(f"{registry.host}/team/dev", "latest", "v1")

        for tag in ("latest", "v1", made.image.digest):
            answer = registry.get(f"team/dev/manifests/{tag}", headers={"Accept": MANIFEST_TYPE})
            assert answer.content == made.image.manifest
            assert answer.headers["Docker-Content-Digest"] == made.image.digest
        for digest in [layer.digest for layer in made.image.layers] + [made.image.id]:
            content = registry.get(f"team/dev/blobs/{digest}").content
            assert f"sha256:{sha256(content).hexdigest()}" == digest
        assert pushed.reference == f"{registry.host}/team/dev@{made.image.digest}"
        assert pushed.sent > 0

    def test_again_sends_nothing(self, registry: Registry, made: Made) -> None:
        first = made.push(f"{registry.host}/team/dev", "latest")

        again = made.push(f"{registry.host}/team/dev", "latest")

        assert (again.sent, again.present) == (0, first.sent)

    def test_another_image_sends_what_changed(self, registry: Registry, made: Made, tmp_path: Path) -> None:
        made.push(f"{registry.host}/team/dev", "latest")
        bumped = Made(tmp_path / "mirror", (b"base", b"venv", b"bumped"))

        pushed = bumped.push(f"{registry.host}/team/dev", "latest")

        assert pushed.sent == bumped.image.layers[-1].size + len(bumped.image.config)

    def test_another_repository_is_given_the_blobs(self, registry: Registry, made: Made) -> None:
        first = made.push(f"{registry.host}/team/dev", "latest")

        second = made.push(f"{registry.host}/other/dev", "latest")

        assert (second.sent, second.mounted) == (0, first.sent)
        assert registry.get(f"other/dev/blobs/{made.image.id}").status_code == 200

    def test_tls_and_a_password(
        self, locked: Registry, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path, locked.host)))

        made.push(f"{locked.host}/dev", "latest")

        context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        answer = httpx.get(f"https://{locked.host}/v2/dev/tags/list", verify=context, auth=("ci", SECRET))
        assert answer.json()["tags"] == ["latest"]


class TestRefusals:
    def test_no_password(
        self, locked: Registry, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

        with pytest.raises(PushError, match="it answers 401") as raised:
            made.push(f"{locked.host}/dev", "latest")
        assert "docker login" in raised.value.hint

    def test_a_wrong_password_is_not_shown(
        self, locked: Registry, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path, locked.host, "not-this")))

        with pytest.raises(PushError) as raised:
            made.push(f"{locked.host}/dev", "latest")
        assert "not-this" not in f"{raised.value} {raised.value.hint}"

    def test_an_authority_that_is_not_trusted(
        self, locked: Registry, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")

        with pytest.raises(PushError, match="CERTIFICATE_VERIFY_FAILED") as raised:
            made.push(f"{locked.host}/dev", "latest")
        assert "ca.crt" in raised.value.hint

    def test_nobody_there(self, made: Made, free_port: int) -> None:
        reference = Reference.parse(f"127.0.0.1:{free_port}/dev")
        with pytest.raises(PushError, match="cannot be reached"), Repository(reference, None, lambda _: None):
            pass

    @pytest.mark.parametrize(
        "text", ["dev", "team/dev", "registry.example", "registry.example/Dev", "registry.example/dev:",
                 "registry.example/dev:a b", "https://registry.example/dev", "registry.example/../dev",
                 "registry.example/dev@sha256:00", "user@registry.example/dev"],
    )  # fmt: skip
    def test_a_malformed_reference(self, text: str) -> None:
        with pytest.raises(BadReferenceError):
            Reference.parse(text)

    def test_a_malformed_tag(self) -> None:
        reference = Reference.parse("registry.example/dev")
        for tag in ("a/b", "", "-a", "a" * 129, "{version", "{user}"):
            with pytest.raises(BadReferenceError, match="it is no tag"):
                tags_of(reference, [tag], PLAN)


class TestCuts:
    def test_a_cut_costs_a_blob_at_most(self, registry: Registry, tmp_path: Path) -> None:
        made = Made(tmp_path / "mirror", (b"small", os.urandom(40 << 20)))
        with Cutting(registry.port, after=20 << 20) as proxy:
            pushed = made.push(f"127.0.0.1:{proxy.port}/dev", "latest")

        assert proxy.cuts == 1
        assert proxy.passed < pushed.sent + (21 << 20)
        content = registry.get(f"dev/blobs/{made.image.layers[1].digest}").content
        assert f"sha256:{sha256(content).hexdigest()}" == made.image.layers[1].digest

    def test_it_goes_on_where_the_registry_stands(self, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(content := os.urandom(20 << 20))
        server = ThreadingHTTPServer(("127.0.0.1", 0), Resuming)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reference = Reference.parse(f"127.0.0.1:{server.server_port}/dev")
        try:
            with Repository(reference, None, lambda _: None) as repository:
                repository.upload("sha256:0", tmp_path / "blob")
        finally:
            server.shutdown()

        assert Resuming.held == content
        assert Resuming.received == len(content)

    @pytest.mark.parametrize("size", [3 << 20, 20 << 20])
    def test_who_asks_is_told_in_the_middle_of_a_blob(self, tmp_path: Path, size: int) -> None:
        """Tokens expire; the piece that was refused is sent once more, whole."""
        (tmp_path / "blob").write_bytes(content := os.urandom(size))
        handler = type("Handler", (Forgetful,), {"held": b"", "refused": 0})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reference = Reference.parse(f"127.0.0.1:{server.server_port}/dev")
        try:
            with Repository(reference, Credentials("ci", SECRET), lambda _: None) as repository:
                repository.upload("sha256:0", tmp_path / "blob")
        finally:
            server.shutdown()

        assert handler.held == content
        assert handler.refused == 1

    def test_half_an_image_has_no_tag(self, registry: Registry, made: Made) -> None:
        made.layout.blob(made.image.layers[1].digest).unlink()

        with pytest.raises(FileNotFoundError):
            made.push(f"{registry.host}/dev", "latest")

        assert registry.get("dev/tags/list").status_code == 404


class Resuming(BaseHTTPRequestHandler):
    """A registry that keeps what came before a cut: the first piece loses its end."""

    protocol_version = "HTTP/1.1"
    held = b""
    received = 0

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Location": "/v2/dev/uploads/1", "Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        is_upload = "uploads" in self.path
        self.answer(204 if is_upload else 200, **({"Range": f"0-{len(self.held) - 1}"} if is_upload else {}))

    def do_POST(self) -> None:
        self.answer(202)

    def do_PUT(self) -> None:
        self.answer(201)

    def do_PATCH(self) -> None:
        start = int(self.headers["Content-Range"].partition("-")[0])
        assert start == len(self.held)
        length = int(self.headers["Content-Length"])
        cut = not self.held
        data = self.rfile.read(1000 if cut else length)
        type(self).held += data
        type(self).received += len(data)
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.answer(202)

    def log_message(self, *_: object) -> None:
        pass


class Forgetful(Resuming):
    """A registry that wants to know who asks when a piece has come."""

    refused = 0

    def do_PATCH(self) -> None:
        self.take(202)

    def do_PUT(self) -> None:
        self.take(201)

    def take(self, status: int) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "Authorization" in self.headers:
            type(self).held += data
            self.answer(status)
        else:
            type(self).refused += 1
            self.answer(401, **{"WWW-Authenticate": "Basic realm=tests"})


class Cutting:
    """A proxy that cuts the first connection that has passed so many bytes."""

    def __init__(self, target: int, after: int) -> None:
        self._target, self._after = target, after
        self.passed = self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Cutting:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self.passed += len(data)
                    if self.passed > self._after and not self.cuts:
                        self.cuts += 1
                        break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class TestCredentials:
    def test_of_a_file(self, tmp_path: Path) -> None:
        docker_config(tmp_path, "registry.example")

        assert find_credentials("registry.example", tmp_path) == Credentials("ci", SECRET)
        assert find_credentials("other.example", tmp_path) is None
        assert SECRET not in repr(find_credentials("registry.example", tmp_path))

    def test_of_a_helper(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "docker-credential-tests"
        program.write_text(
            "#!/bin/sh\nread host\n[ $host = registry.example ] || exit 1\n"
            'echo \'{"ServerURL": "registry.example", "Username": "ci", "Secret": "from a helper"}\'\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        for config in ({"credsStore": "tests"}, {"credHelpers": {"registry.example": "tests"}}):
            (tmp_path / "config.json").write_text(json.dumps(config))

            assert find_credentials("registry.example", tmp_path) == Credentials("ci", "from a helper")
            assert find_credentials("other.example", tmp_path) is None

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"auths": {"r.example": {"auth": "?"}}}', '{"credsStore": "../evil"}',
                 '{"credsStore": "nosuchhelper"}', '{"auths": {"r.example": {"auth": 1}}}',
                 '{"credsStore": 1}'],
    )  # fmt: skip
    def test_a_broken_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)

        with pytest.raises(PushError, match="docker's configuration"):
            find_credentials("r.example", tmp_path)

    def test_an_authority_that_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(credentials, "CERTIFICATES", tmp_path)
        (tmp_path / "r.example").mkdir()
        (tmp_path / "r.example" / "ca.crt").write_text("no certificate")

        with pytest.raises(PushError, match="no certificates that can be read") as caught:
            credentials.trust("r.example")

        assert caught.value.where == str(tmp_path / "r.example" / "ca.crt")


def test_tags() -> None:
    reference = Reference.parse("registry.example/dev:mine")
    bare = Reference.parse("registry.example/dev")

    assert tags_of(reference, ["{name}-{version}"], PLAN) == ("mine", f"dev-{PLAN.version}")
    assert tags_of(bare, [], PLAN) == (PLAN.version,)


def test_images_lock_keeps_the_others(registry: Registry, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "images.lock"
    write_lock(file, "other", [])
    write_lock(file, "dev", [made.push(f"{registry.host}/dev", "latest")])

    images = json.loads(file.read_text())["images"]

    assert sorted(images) == ["dev", "other"]
    assert images["dev"] == [{"reference": f"{registry.host}/dev@{made.image.digest}", "tags": ["latest"]}]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 1}', '{"images": {"dev": 1}}', '{"images": {"dev": [{}]}}',
             '{"images": {"dev": [{"reference": 1}]}}', "\xff"],
)  # fmt: skip
def test_a_damaged_images_lock_is_not_taken_as_empty(tmp_path: Path, made: Made, text: str) -> None:
    file = tmp_path / "images.lock"
    file.write_bytes(text.encode("latin-1"))
    nowhere = Reference.parse("127.0.0.1:1/dev")

    for use in (
        lambda: read_lock(file, "dev"),
        lambda: write_lock(file, "dev", []),
        lambda: Push(file, made.layout, [nowhere], ["1"], Silent()),
    ):
        with pytest.raises(LockError, match="it is damaged") as caught:
            use()
        assert caught.value.where == str(file)
        assert "version control" in caught.value.hint
    assert file.read_bytes() == text.encode("latin-1")


def test_no_images_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "images.lock", "dev") is None


def test_what_was_pushed_before_a_failure_is_noted(registry: Registry, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "images.lock"
    write_lock(file, "other", [])
    with Fake() as refusing:
        refusing.answers["GET /v2/"] = (403, {}, b"")
        targets = [Reference.parse(f"{host}/dev") for host in (registry.host, refusing.host)]

        def refused(wanted: list[Reference]) -> None:
            with (
                Push(file, made.layout, wanted, ["1"], Silent()) as push,
                pytest.raises(PushError, match="it answers 403"),
            ):
                push.finish(PLAN, [made.image])

        refused(targets)
        before = file.read_bytes()
        refused(targets[1:])

    assert read_lock(file, "dev") == f"{registry.host}/dev@{made.image.digest}"
    assert sorted(json.loads(before)["images"]) == ["dev", "other"]
    assert file.read_bytes() == before


def test_a_real_registry_is_there() -> None:
    assert shutil.which("docker-registry"), "apt-get install docker-registry"
