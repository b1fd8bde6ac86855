"""A replica of the mirror's devpi, as docs/operations.md tells to set one up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mirror.publish import devpi, devpi_state
from mirror.publish.devpi_server import is_up
from tests.mirror.registry import Registry, free_port, pip_install, uv_install
from tests.mirror.test_devpi_server import foreground
from tests.wheels import make_wheel

BIN = Path(sys.executable).parent


def wait_until(condition: Callable[[], bool], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def replica(folder: Path, primary: str, secret: bytes) -> Iterator[Registry]:
    """Run a replica; what is read of it is read as a registry is."""
    folder.mkdir(mode=0o700)
    (folder / "secret").write_bytes(secret)
    (folder / "secret").chmod(0o600)
    state = ["--role=replica", f"--primary-url={primary}", f"--serverdir={folder / 'server'}"]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    subprocess.run([BIN / "devpi-init", *state], check=True, env=clean, capture_output=True)
    found = Registry(folder, port=free_port())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "devpi-server", *state, f"--secretfile={folder / 'secret'}", "--restrict-modify=root",
             "--argon2-memory-cost=1024", "--argon2-parallelism=1", "--argon2-time-cost=1",
             "--host=127.0.0.1", f"--port={found.port}"],
            env=clean, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield found
    finally:
        process.terminate()
        process.wait()


def answers(registry: Registry) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{registry.port}/+api", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "mirror")
    devpi_state.init(registry.folder)
    process = foreground(registry)
    try:
        wait_until(lambda: is_up(registry.folder, registry.port))
        yield registry
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_replica_shows_what_the_mirror_publishes(primary: Registry, tmp_path: Path) -> None:
    first, second = (
        primary.stock(make_wheel(tmp_path / "wheels", "lockstock-it", version), "lockstock-it", version)
        for version in ("1.0", "2.0")
    )
    primary.publish("0001-a", first)
    address = f"http://127.0.0.1:{primary.port}"
    with replica(tmp_path / "replica", address, (primary.folder / "secret").read_bytes()) as copy:
        wait_until(lambda: answers(copy) and is_shown(copy, first.filename))
        assert uv_install(copy, tmp_path / "one", first).returncode == 0
        primary.publish("0002-b", second)
        wait_until(lambda: is_shown(copy, second.filename))
        assert copy.files("lockstock-it") == {second.filename: second.sha256}
        done = pip_install(copy, tmp_path / "two", second)
        assert done.returncode == 0, done.stdout
        devpi.prune(primary.folder, ["0002-b"])
        wait_until(lambda: copy.indexes() == ["current", "s-0002-b"])


def is_shown(registry: Registry, filename: str) -> bool:
    page = httpx.get(f"{registry.index_url}lockstock-it/", trust_env=False)
    return filename in page.text


def test_who_lacks_the_secret_gets_no_copy(primary: Registry, tmp_path: Path) -> None:
    file = primary.stock(make_wheel(tmp_path / "wheels", "lockstock-it", "1.0"), "lockstock-it", "1.0")
    primary.publish("0001-a", file)
    address = f"http://127.0.0.1:{primary.port}"
    for path in ("/+changelog/0", "/+changelog/0-"):
        stranger = {"X-Devpi-Replica-Uuid": "stranger", "X-Devpi-Expected-Primary-Id": ""}
        for headers in ({}, stranger, {**stranger, "Authorization": "Bearer guess"}):
            answer = httpx.get(f"{address}{path}", headers=headers, trust_env=False)
            assert answer.status_code in (400, 403), (headers, answer.text)
    with replica(tmp_path / "replica", address, os.urandom(32)) as copy:
        wait_until(lambda: answers(copy) or "403" in (copy.root / "log").read_text())
        wait_until(lambda: "403" in (copy.root / "log").read_text())
        assert not list((copy.root / "server").rglob("*.whl"))
