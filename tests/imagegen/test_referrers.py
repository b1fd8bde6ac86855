"""Evidence in registries: one without an API for referrers, one with it, one that lies."""

from __future__ import annotations

import hashlib
import json
import platform
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imagegen.attestation import signatures
from imagegen.errors import NotBuiltError, PushError
from imagegen.inspection import inspect
from imagegen.oci import INDEX_TYPE, REFERENCE
from imagegen.reference import Reference
from imagegen.referrers import MANIFEST_TYPE, Referrer, fallback_tag, make_referrer
from imagegen.registry import Repository
from imagegen.sources import opened
from imagegen.statements import CYCLONEDX
from tests.imagegen.registries import AUTH, TLS, Made, Registry, docker_config, write_certificate
from tests.imagegen.test_signing import ED25519, evidence


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A small image with evidence."""
    image = Made(tmp_path / "mirror")
    image.layout.add(image.image, ["lockstock/dev:1"], evidence(image.image.subject))
    return image


def read(reference: str, digest: str) -> tuple[Referrer, ...]:
    with Repository(Reference.parse(reference), None, lambda _: None, actions="pull") as repository:
        return repository.referrers(digest)


def listed(registry: Registry, digest: str) -> list[dict[str, Any]]:
    answer = registry.get(f"dev/manifests/{fallback_tag(digest)}", headers={"Accept": INDEX_TYPE})
    assert answer.headers["Content-Type"] == INDEX_TYPE
    return list(answer.json()["manifests"])


class TestWithoutAnApi:
    def test_evidence_arrives_and_is_found_by_the_tag_schema(self, registry: Registry, made: Made) -> None:
        made.push(f"{registry.host}/dev", "latest")

        found = read(f"{registry.host}/dev", made.image.digest)
        assert found == made.layout.referrers(made.image.digest)
        entries = listed(registry, made.image.digest)
        assert sorted(entry["digest"] for entry in entries) == [one.digest for one in found]
        for entry, one in zip(entries, found, strict=True):
            assert (entry["artifactType"], entry["size"]) == (one.artifact_type, len(one.manifest))
            manifest = registry.get(f"dev/manifests/{one.digest}", headers={"Accept": MANIFEST_TYPE})
            assert manifest.content == one.manifest
            assert manifest.json()["subject"] == {
                "mediaType": MANIFEST_TYPE,
                "digest": made.image.digest,
                "size": len(made.image.manifest),
            }
            assert registry.get(f"dev/blobs/{one.blob_digest}").content == one.blob

    def test_again_sends_nothing(self, registry: Registry, made: Made) -> None:
        first = made.push(f"{registry.host}/dev", "latest")

        again = made.push(f"{registry.host}/dev", "latest")

        assert (again.sent, again.present) == (0, first.sent)

    def test_signatures_come_to_what_is_there(self, registry: Registry, made: Made) -> None:
        made.push(f"{registry.host}/dev", "latest")
        signed = signatures(made.image.subject, made.layout.referrers(made.image.digest), ED25519)
        made.layout.attach(signed)
        theirs = make_referrer(made.image.subject, "text/plain", b"of somebody else", {})
        with Repository(Reference.parse(f"{registry.host}/dev"), None) as repository:
            made.layout.blobs.joinpath("note").write_bytes(theirs.blob)
            repository.upload(theirs.blob_digest, made.layout.blobs / "note")
            repository.refer([theirs])

        made.push(f"{registry.host}/dev", "latest")

        found = {one.digest for one in read(f"{registry.host}/dev", made.image.digest)}
        assert found == {theirs.digest, *(one.digest for one in made.layout.referrers(made.image.digest))}
        assert len(found) == 5

    def test_an_image_without_evidence(self, registry: Registry, tmp_path: Path) -> None:
        bare = Made(tmp_path / "bare")

        bare.push(f"{registry.host}/dev", "latest")

        assert read(f"{registry.host}/dev", bare.image.digest) == ()
        assert registry.get("dev/tags/list").json()["tags"] == ["latest"]


class TestInspect:
    def test_a_tag_and_a_digest(self, registry: Registry, made: Made) -> None:
        made.push(f"{registry.host}/dev", "v1")
        for name in ("dev:v1", f"dev@{made.image.digest}", f"dev:v1@{made.image.digest}"):
            with opened(f"{registry.host}/{name}", lambda: made.layout) as (source, inner):
                found = inspect(source, inner, name)

            assert (found.digest, found.id) == (made.image.digest, made.image.id)
            assert [layer.digest for layer in found.layers] == [layer.digest for layer in made.image.layers]
            assert (found.packages, len(found.evidence)) == ((), 2)

    def test_with_tls_and_a_password(
        self, made: Made, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_certificate(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with Registry(tmp_path, free_port, TLS + AUTH, "https") as locked:
            monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path, locked.host)))
            made.push(f"{locked.host}/dev", "latest")

            with opened(f"{locked.host}/dev", lambda: made.layout) as (source, inner):
                assert len(inspect(source, inner, "dev").evidence) == 2
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
            with (
                pytest.raises(PushError, match="it answers 401"),
                opened(f"{locked.host}/dev", lambda: made.layout),
            ):
                pass

    def test_what_is_not_there(self, registry: Registry, made: Made) -> None:
        with (
            opened(f"{registry.host}/dev:nosuch", lambda: made.layout) as (source, inner),
            pytest.raises(NotBuiltError, match="there is no such image"),
        ):
            inspect(source, inner, "dev:nosuch")


class TestSeveralPlatforms:
    def look(self, made: Made, index: dict[str, Any]) -> str:
        data = json.dumps(index).encode()
        with Fake() as registry:
            registry.answers["GET /v2/dev/manifests/latest"] = (200, {"Content-Type": INDEX_TYPE}, data)
            own = made.image
            registry.answers[f"GET /v2/dev/manifests/{own.digest}"] = (200, {}, own.manifest)
            registry.answers[f"GET /v2/dev/blobs/{own.id}"] = (200, {}, own.config)
            with opened(f"{registry.host}/dev", lambda: made.layout) as (source, inner):
                return inspect(source, inner, "dev").digest

    def test_that_of_this_machine(self, made: Made) -> None:
        own = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        entries = [
            {"digest": f"sha256:{'0' * 64}", "platform": {"architecture": "s390x"}},
            {"digest": made.image.digest, "platform": {"architecture": own}},
        ]

        assert self.look(made, {"manifests": entries}) == made.image.digest

    def test_the_first_where_none_is(self, made: Made) -> None:
        entries = [{"digest": made.image.digest, "platform": {"architecture": "s390x"}}]

        assert self.look(made, {"manifests": entries}) == made.image.digest

    @pytest.mark.parametrize(
        "index",
        [{}, {"manifests": []}, {"manifests": [1, {"platform": 1}]}, {"manifests": "x"}, {"layers": 1}],
    )
    def test_an_index_that_leads_nowhere(self, made: Made, index: dict[str, Any]) -> None:
        with pytest.raises((NotBuiltError, PushError)):
            self.look(made, index)

    def test_an_index_of_an_index(self, made: Made) -> None:
        layout, inner = made.layout, b'{"manifests": [{"digest": "sha256:%b"}]}' % (b"0" * 64)
        layout.blobs.joinpath(hashlib.sha256(inner).hexdigest()).write_bytes(inner)
        outer = {"manifests": [{"digest": f"sha256:{hashlib.sha256(inner).hexdigest()}"}]}

        with pytest.raises((NotBuiltError, PushError)):
            self.look(made, outer)


class Answering(BaseHTTPRequestHandler):
    """A registry whose answers are set by path, and that notes what it was asked for, and by whom.

    The path may be without its query. An answer with the status 0 never comes.
    """

    protocol_version = "HTTP/1.1"
    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, str]]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        paths = (self.path, self.path.partition("?")[0])
        found = (self.answers.get(f"{self.command} {path}") for path in paths)
        status, headers, body = next(filter(None, found), (404, {}, b""))
        while not status:
            time.sleep(60)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_PATCH(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass


class Fake:
    """That registry, running inside the block."""

    def __init__(self, **answers: tuple[int, dict[str, str], bytes]) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.answers = {"GET /v2/": (200, {}, b""), **answers}
        handler = type("Handler", (Answering,), {"answers": self.answers, "asked": self.asked})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Fake:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def open(self) -> Repository:
        return Repository(Reference.parse(f"{self.host}/dev"), None, lambda _: None)


def test_with_an_api_nothing_is_tagged(made: Made) -> None:
    artifacts = made.layout.referrers(made.image.digest)
    digest = made.image.digest
    index = json.dumps({"schemaVersion": 2, "manifests": [one.descriptor() for one in artifacts]}).encode()
    with Fake() as registry:
        registry.answers[f"GET /v2/dev/referrers/{digest}"] = (200, {"Content-Type": INDEX_TYPE}, index)
        for one in artifacts:
            registry.answers[f"PUT /v2/dev/manifests/{one.digest}"] = (201, {"OCI-Subject": digest}, b"")
            registry.answers[f"GET /v2/dev/manifests/{one.digest}"] = (200, {}, one.manifest)
            registry.answers[f"GET /v2/dev/blobs/{one.blob_digest}"] = (200, {}, one.blob)
        with registry.open() as repository:
            repository.refer(artifacts)
            assert repository.referrers(digest) == artifacts

    assert not [path for _, path, _ in registry.asked if fallback_tag(digest) in path]


class TestLies:
    def test_other_bytes(self, made: Made) -> None:
        digest = made.image.digest
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET /v2/dev/manifests/{digest}"] = (200, {}, b"{}")
            registry.answers[f"GET /v2/dev/blobs/{digest}"] = (200, {}, b"{}")
            for read_it in (repository.manifest, repository.blob):
                with pytest.raises(PushError, match="other bytes for sha256:"):
                    read_it(digest)

    def test_no_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("imagegen.registry._LARGEST_BLOB", 1000)
        blob = bytes(2000)
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET /v2/dev/blobs/{digest}"] = (200, {}, blob)
            with pytest.raises(PushError, match="more than 1000 bytes"):
                repository.blob(digest)

    def test_blobs_elsewhere_are_asked_for_without_credentials(self) -> None:
        blob = b"elsewhere"
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        with Fake() as other, Fake() as registry:
            other.answers["GET /store"] = (200, {}, blob)
            place = f"http://localhost:{other.host.rpartition(':')[2]}/store"
            registry.answers[f"GET /v2/dev/blobs/{digest}"] = (307, {"Location": place}, b"")
            with registry.open() as repository:
                repository._authorization = {"Authorization": "Bearer of-ours"}
                assert repository.blob(digest) == blob

        assert other.asked == [("GET", "/store", "")]
        assert registry.asked[-1][2] == "Bearer of-ours"

    @pytest.mark.parametrize(
        "index",
        [b"[]", b"{", b'{"manifests": 1}', b'{"manifests": [1, {}]}', b'{"manifests": [{"digest": "../x"}]}'],
    )
    def test_an_index_that_is_none(self, made: Made, index: bytes) -> None:
        digest = made.image.digest
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET /v2/dev/referrers/{digest}"] = (200, {}, index)
            assert repository.referrers(digest) == ()

    @pytest.mark.parametrize("notes", [[["a", "b"]], [1], "x", 1])
    def test_notes_that_are_none(self, made: Made, notes: object) -> None:
        one = make_referrer(made.image.subject, CYCLONEDX, b"{}", {})
        manifest = json.dumps(json.loads(one.manifest) | {"annotations": notes}).encode()
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        blobs = {digest: manifest, one.blob_digest: one.blob}
        for name, data in blobs.items():
            made.layout.blob(name).write_bytes(data)
        file = made.layout.root / "index.json"
        index = json.loads(file.read_text())
        index["manifests"].append({"digest": digest, "artifactType": CYCLONEDX})
        file.write_text(json.dumps(index))

        found = made.layout.referrers(made.image.digest)

        assert digest not in {artifact.digest for artifact in found}
        assert len(found) == 2

    @pytest.mark.parametrize(
        "entry", [1, "x", [], {}, {"digest": 1}, {"digest": "sha256:x", "annotations": [REFERENCE]}]
    )
    def test_an_entry_of_a_layout_that_is_none(self, made: Made, entry: object) -> None:
        file = made.layout.root / "index.json"
        index = json.loads(file.read_text())
        file.write_text(json.dumps({"manifests": [entry, *index["manifests"]]}))

        assert set(made.layout.names().values()) == {made.image.digest}
        assert len(made.layout.referrers(made.image.digest)) == 2
        made.layout.attach(())

    def test_an_artifact_about_something_else(self, made: Made) -> None:
        one = make_referrer(made.image.subject, CYCLONEDX, b"{}", {})
        digest = f"sha256:{'b' * 64}"
        with Fake() as registry, registry.open() as repository:
            index = json.dumps({"manifests": [one.descriptor()]}).encode()
            registry.answers[f"GET /v2/dev/referrers/{digest}"] = (200, {}, index)
            registry.answers[f"GET /v2/dev/manifests/{one.digest}"] = (200, {}, one.manifest)
            registry.answers[f"GET /v2/dev/blobs/{one.blob_digest}"] = (200, {}, one.blob)
            assert repository.referrers(digest) == ()

    def test_a_manifest_whose_blob_is_no_digest(self, made: Made) -> None:
        digest = made.image.digest
        manifest = json.dumps({"layers": [{"digest": "../../secret"}], "artifactType": CYCLONEDX}).encode()
        name = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        index = json.dumps({"manifests": [{"digest": name}]}).encode()
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET /v2/dev/referrers/{digest}"] = (200, {}, index)
            registry.answers[f"GET /v2/dev/manifests/{name}"] = (200, {}, manifest)
            assert repository.referrers(digest) == ()

        assert not [path for _, path, _ in registry.asked if "secret" in path]
