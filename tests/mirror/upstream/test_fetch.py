"""Retries, pauses, stalls, and credentials from the user's keyring."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from lockfiles.model import Digest
from mirror.errors import UpstreamError
from mirror.store import Expected, Store
from mirror.upstream import fetch as fetching
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.index_server import Answer, IndexServer
from tests.wheels import digest, make_wheel


def get(index: IndexServer, path: str, retries: int = 0, url: str | None = None) -> fetching.Page | None:
    async def run() -> fetching.Page | None:
        async with http_client(UpstreamSettings(indexes=(url or index.index,)), 4) as client:
            return await fetching.get(client, f"{index.url}{path}", retries)

    return asyncio.run(run())


@pytest.mark.parametrize("told", [None, "bytes 5-{last}/{size}", "bytes */{size}", "bytes 101-{last}/{size}"])
def test_another_part_than_was_asked_for_is_not_taken(
    index: IndexServer, tmp_path: Path, told: str | None
) -> None:
    wheel = make_wheel(index.folder, "flask", "3.0")
    body = wheel.read_bytes()
    place = {"last": len(body) - 1, "size": len(body)}

    def answers(answer: Answer) -> None:
        if answer.count == 1:
            answer.send(200, body[:100], length=len(body))
            answer.cut()
        elif answer.handler.headers.get("Range"):
            answer.send(206, body[5:], {"Content-Range": told.format(**place)} if told else None)
        else:
            answer.send(200, body)

    index.faults[f"/files/{wheel.name}"] = answers
    expected = Expected(label=wheel.name, digests=(Digest("sha256", digest(wheel)),))

    async def run() -> str:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 4) as client:
            url = f"{index.url}/files/{wheel.name}"
            return await fetching.fetch(client, url, Store(tmp_path / "store"), expected, 2, lambda _: None)

    assert asyncio.run(run()) == digest(wheel)


def test_a_part_that_was_not_asked_for_is_no_page(index: IndexServer) -> None:
    index.faults["/page"] = lambda answer: answer.send(206, b"be", {"Content-Range": "bytes 0-1/9"})
    with pytest.raises(UpstreamError, match="answers 206"):
        get(index, "/page")


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_honoured(index: IndexServer, header: str) -> None:
    times: list[float] = []

    def busy_once(answer: Answer) -> None:
        times.append(time.monotonic())
        value = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
        answer.send(*((429, b"", {"Retry-After": value}) if answer.count == 1 else (200, b"x", None)))

    index.faults["/simple/flask/"] = busy_once
    response = get(index, "/simple/flask/", retries=1)
    assert response is not None
    assert response.body == b"x"
    assert times[1] - times[0] >= 0.9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("Mon, 01 Jan 2024 00:00:00 +0000", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_what_retry_after_may_say(text: str, seconds: float | None) -> None:
    assert fetching._retry_after(text) == seconds


def test_a_stream_that_hardly_goes_on_is_given_up(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STALL_SECONDS", 0.3)
    wheel = make_wheel(index.folder, "flask", "3.0")

    def drip(answer: Answer) -> None:
        body = answer.body or b""
        answer.send(200, body[:1], length=len(body))
        for byte in body[1:]:
            time.sleep(0.05)
            answer.handler.wfile.write(bytes([byte]))

    index.faults[f"/files/{wheel.name}"] = drip
    store = Store(tmp_path / "store")
    expected = Expected(label=wheel.name, digests=(Digest("sha256", digest(wheel)),))

    async def run() -> str:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 4) as client:
            url = f"{index.url}/files/{wheel.name}"
            return await fetching.fetch(client, url, store, expected, 0, lambda size: None)

    begun = time.monotonic()
    with pytest.raises(UpstreamError, match="bytes came in"):
        asyncio.run(run())
    assert time.monotonic() - begun < 10
    assert not list(store.incoming.iterdir())


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `keyring` command that knows one service, and writes down what it is asked."""
    log = tmp_path / "asked"
    command = tmp_path / "bin" / "keyring"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n'
        'case "$*" in "--mode creds get http://127.0.0.1:"*) printf "me\\npw\\n";;\n'
        '"get http://127.0.0.1:"*" reader") echo token;; *) exit 1;; esac\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    return log


def guarded(answer: Answer) -> None:
    known = {"Basic bWU6cHc=", "Basic cmVhZGVyOnRva2Vu"}
    answer.send(200 if answer.handler.headers.get("Authorization") in known else 401, b"x")


def test_the_keyring_is_asked_when_a_host_wants_credentials(index: IndexServer, keyring: Path) -> None:
    index.faults["/simple/flask/"] = guarded
    assert get(index, "/simple/flask/") is not None
    assert keyring.read_text().splitlines() == [f"--mode creds get {index.url}/"]


def test_the_keyring_is_asked_for_the_user_that_the_index_names(index: IndexServer, keyring: Path) -> None:
    index.faults["/simple/flask/"] = guarded
    assert get(index, "/simple/flask/", url=index.index.replace("//", "//reader@")) is not None
    assert keyring.read_text().splitlines() == [f"get {index.url}/ reader"]


def test_the_keyring_is_left_alone_where_nobody_asks(index: IndexServer, keyring: Path) -> None:
    make_wheel(index.folder, "flask", "3.0")
    assert get(index, "/simple/flask/") is not None
    assert not keyring.exists()


def test_netrc(index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password pw\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    file.rename(tmp_path / ".netrc")
    index.faults["/simple/flask/"] = guarded
    assert get(index, "/simple/flask/") is not None


def test_a_refusal_says_where_credentials_go(index: IndexServer) -> None:
    index.faults["/simple/flask/"] = lambda answer: answer.send(403)
    with pytest.raises(UpstreamError) as caught:
        get(index, "/simple/flask/")
    assert "netrc" in caught.value.hint
