"""What a registry may do while something is taken from it: forget a token, break off, answer nonsense."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from imagegen.credentials import find_credentials
from imagegen.errors import PushError
from imagegen.reference import Reference
from imagegen.registry import Repository
from tests.imagegen.test_referrers import Fake

BLOB = bytes(range(256)) * 16384
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"


class Expiring(BaseHTTPRequestHandler):
    """A registry with one blob, whose tokens are good for one request; it may cut some of its answers."""

    protocol_version = "HTTP/1.1"
    tokens: int
    used: int
    cuts: int
    has_ranges: bool
    refuses: bool
    asked: list[str]

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            type(self).tokens += 1
            self.answer(200, json.dumps({"token": f"t{self.tokens}"}).encode())
        elif self.path != f"/v2/dev/blobs/{DIGEST}":
            self.answer(200, b"")
        elif self.refuses or self.headers.get("Authorization") != f"Bearer t{self.used + 1}":
            place = f"http://127.0.0.1:{self.server.server_address[1]}/token"
            self.answer(401, b"", **{"WWW-Authenticate": f'Bearer realm="{place}",service="x"'})
        else:
            self.give()

    def give(self) -> None:
        type(self).used += 1
        self.asked.append(self.headers.get("Range", ""))
        start = int(self.asked[-1][6:-1] or 0) if self.has_ranges else 0
        body = BLOB[start:]
        if self.cuts:
            type(self).cuts -= 1
            self.answer(206 if start else 200, body[: len(body) // 2], length=len(body))
            self.close_connection = True
        else:
            self.answer(206 if start else 200, body)

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length or len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[type[Expiring]]:
    """Its handler, which is changed in tests and notes what it was asked for; `place` says where it is."""
    handler = type(
        "Handler",
        (Expiring,),
        {"tokens": 0, "used": 0, "cuts": 0, "has_ranges": True, "refuses": False, "asked": []},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.place = f"127.0.0.1:{server.server_port}/dev"  # type: ignore[attr-defined]  # only tests know it
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


def opened(registry: type[Expiring]) -> Repository:
    place = registry.place  # type: ignore[attr-defined]  # set by the fixture
    return Repository(Reference.parse(place), None, lambda _: None, actions="pull")


class TestTokens:
    def test_one_that_expires_is_asked_for_again(self, registry: type[Expiring]) -> None:
        with opened(registry) as repository:
            assert b"".join(repository.pieces(DIGEST)) == BLOB
            assert b"".join(repository.pieces(DIGEST)) == BLOB
            assert repository.blob(DIGEST) == BLOB

        assert registry.tokens == 3

    def test_a_registry_that_takes_none(self, registry: type[Expiring]) -> None:
        registry.refuses = True

        with opened(registry) as repository:
            with pytest.raises(PushError, match="it answers 401"):
                list(repository.pieces(DIGEST))
            with pytest.raises(PushError, match="it answers 401"):
                repository.blob(DIGEST)

        assert registry.tokens == 2

    @pytest.mark.parametrize(
        "body",
        [b"", b"[]", b"{}", b"\xff", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}',
         b'{"token": ' + b"[" * 100_000],
    )  # fmt: skip
    def test_a_service_that_gives_none(self, body: bytes) -> None:
        with Fake() as service:
            service.answers["GET /token?scope=repository%3Adev%3Apull%2Cpush"] = (200, {}, body)
            with pytest.raises(PushError, match="its token service gives no token"):
                self.ask(f"http://{service.host}/token")

    def test_a_service_without_an_address(self) -> None:
        with pytest.raises(PushError, match="its token service has no address"):
            self.ask("http://127.0.0.1:x/")

    def ask(self, realm: str) -> None:
        with Fake() as registry:
            registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b"")
            with registry.open():
                pass


class TestIdentityTokens:
    @pytest.mark.parametrize("auth", [{}, {"auth": base64.b64encode(b"ci:").decode()}])
    def test_one_is_posted_for_a_token(self, tmp_path: Path, auth: dict[str, str]) -> None:
        entry = {"identitytoken": "of+ours", **auth}
        (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example": entry}}))
        posted: list[dict[str, list[str]]] = []

        class Service(Expiring):
            def do_GET(self) -> None:
                if self.headers.get("Authorization") == "Bearer fresh":
                    return self.answer(200, b"")
                place = f"http://127.0.0.1:{self.server.server_address[1]}/token"  # type: ignore[index]  # a pair
                self.send_response(401)
                self.send_header("WWW-Authenticate", f'Bearer realm="{place}",service="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None

            def do_POST(self) -> None:
                posted.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                self.answer(200, b'{"access_token": "fresh"}')

        server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found = find_credentials("r.example", tmp_path)
        reference = Reference.parse(f"127.0.0.1:{server.server_port}/dev")
        with Repository(reference, found, lambda _: None, actions="pull"):
            pass
        server.shutdown()
        server.server_close()

        assert "of+ours" not in repr(found)
        assert posted == [{"service": ["x"], "scope": ["repository:dev:pull"], "client_id": ["lockstock"],
                           "grant_type": ["refresh_token"], "refresh_token": ["of+ours"]}]  # fmt: skip


class TestBodies:
    """Of a body that has no use, or no end, no more is held than a manifest may have."""

    LIMIT = 100_000

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("imagegen.registry._LARGEST_MANIFEST", self.LIMIT)

    @pytest.mark.parametrize("status", [200, 206, 400, 404, 401])
    def test_a_large_one(self, status: int, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(BLOB)
        with Fake() as registry, registry.open() as repository:
            for path in ("POST /v2/dev/blobs/uploads/", "GET /v2/dev/manifests/latest"):
                registry.answers[path] = (status, {}, bytes(self.LIMIT + 1))
            with pytest.raises(PushError, match="more than 100000 bytes"):
                repository.upload(DIGEST, tmp_path / "blob")
            with pytest.raises(PushError, match="more than 100000 bytes"):
                repository.manifest("latest")

    def test_one_that_is_packed(self) -> None:
        body = gzip.compress(bytes(self.LIMIT + 1))
        with Fake() as registry, registry.open() as repository:
            registry.answers["GET /v2/dev/manifests/latest"] = (400, {"Content-Encoding": "gzip"}, body)
            with pytest.raises(PushError, match="more than 100000 bytes"):
                repository.manifest("latest")

    def test_of_a_token_service(self) -> None:
        with Fake() as registry:
            place = f"http://{registry.host}/token"
            registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": f'Bearer realm="{place}"'}, b"")
            path = "GET /token?scope=repository%3Adev%3Apull%2Cpush"
            registry.answers[path] = (200, {}, bytes(self.LIMIT + 1))
            with pytest.raises(PushError, match="more than 100000 bytes"), registry.open():
                pass

    def test_of_a_redirect_is_not_read(self) -> None:
        class Endless(Expiring):
            def do_GET(self) -> None:
                if self.path == "/v2/":
                    self.answer(200, b"")
                elif self.path == "/there":
                    self.answer(200, BLOB)
                else:  # promises what never comes: to read it is to wait for it
                    self.answer(307, b"begun", length=1 << 40, Location="/there")
                    released.wait(60)

        released = threading.Event()
        server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        place = Reference.parse(f"127.0.0.1:{server.server_port}/dev")
        started = time.monotonic()
        with Repository(place, None, lambda _: None) as repository:
            assert b"".join(repository.pieces(DIGEST)) == BLOB
        released.set()
        server.shutdown()

        assert time.monotonic() - started < 30

    def test_the_reason_is_still_told(self) -> None:
        body = gzip.compress(b'{"errors": [{"message": "not today"}]}')
        with Fake() as registry, registry.open() as repository:
            registry.answers["GET /v2/dev/manifests/latest"] = (400, {"Content-Encoding": "gzip"}, body)
            with pytest.raises(PushError, match="not today"):
                repository.manifest("latest")


class TestCuts:
    @pytest.mark.parametrize("has_ranges", [True, False])
    def test_it_goes_on_where_the_cut_came(self, registry: type[Expiring], has_ranges: bool) -> None:
        registry.cuts, registry.has_ranges = 2, has_ranges

        with opened(registry) as repository:
            assert b"".join(repository.pieces(DIGEST)) == BLOB

        assert registry.asked[0] == ""
        assert registry.asked[1] == f"bytes={len(BLOB) // 2}-"

    def test_an_end_of_patience(self, registry: type[Expiring]) -> None:
        registry.cuts = 100

        with opened(registry) as repository, pytest.raises(PushError, match="it cannot be reached"):
            list(repository.pieces(DIGEST))

        assert len(registry.asked) == 5


class TestNonsense:
    def test_redirects_without_end(self) -> None:
        path = f"/v2/dev/blobs/{DIGEST}"
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET {path}"] = (307, {"Location": path}, b"")
            with pytest.raises(PushError, match="redirects"):
                repository.blob(DIGEST)
            with pytest.raises(PushError, match="redirects"):
                list(repository.pieces(DIGEST))

    def test_an_encoding_that_it_does_not_have(self) -> None:
        with Fake() as registry, registry.open() as repository:
            registry.answers[f"GET /v2/dev/blobs/{DIGEST}"] = (200, {"Content-Encoding": "gzip"}, b"no gzip")
            with pytest.raises(PushError, match="it cannot be reached"):
                repository.blob(DIGEST)

    @pytest.mark.parametrize("place", ["http://[", "http://127.0.0.1:x/"])
    def test_an_upload_to_nowhere(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "blob").write_bytes(BLOB)
        with Fake() as registry, registry.open() as repository:
            registry.answers["POST /v2/dev/blobs/uploads/"] = (202, {"Location": place}, b"")
            with pytest.raises(PushError, match="it sends the upload nowhere"):
                repository.upload(DIGEST, tmp_path / "blob")
