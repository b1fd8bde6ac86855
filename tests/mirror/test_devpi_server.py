from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from mirror.errors import RegistryError
from mirror.publish import devpi_server, devpi_state
from tests.mirror.registry import Registry
from tests.wheels import make_wheel


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "mirror")


class _OtherProgram(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server(registry: Registry) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", registry.port), _OtherProgram) as server:
        Thread(target=server.serve_forever).start()
        yield
        server.shutdown()


def foreground(registry: Registry, function: str = "serve", before: str = "") -> subprocess.Popen[bytes]:
    """Run `mirror.serve.app.serve`, or `devpi_server.start` and then sleep, in a process of its own."""
    script = {
        "serve": "from mirror.layout import Layout; from mirror.serve.app import serve\n"
        f"sys.exit(serve(Layout(Path({str(registry.root)!r})), '127.0.0.1', {registry.port}, print))\n",
        "start": "from mirror.publish import devpi_server\n"
        f"devpi_server.start(Path({str(registry.folder)!r}), {registry.port})\ntime.sleep(60)\n",
    }[function]
    script = f"import sys, time; from pathlib import Path\n{before}\n{script}"
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)


def behind(folder: Path, port: int) -> None:
    devpi_server.start_behind(folder, "127.0.0.1", port)


def wait_until(condition: object, *, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():  # type: ignore[operator]  # any callable
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_first_to_start_it_stops_it(registry):
    with registry.start() as first:
        assert first.index_url == registry.index_url
        assert devpi_server.is_up(registry.folder, registry.port)
        with registry.start() as second:
            assert second.process is None
        assert devpi_server.is_up(registry.folder, registry.port)
    assert not devpi_server.is_up(registry.folder, registry.port)


def test_a_private_one_is_started_where_no_client_looks(registry):
    with devpi_server.start(registry.folder, registry.port, private=True) as server:
        assert server.port != registry.port
        assert httpx.get(server.index_url, trust_env=False).status_code == 200
        assert not devpi_server.is_up(registry.folder, registry.port)
    with registry.start(), devpi_server.start(registry.folder, registry.port, private=True) as server:
        assert server.port == registry.port


def test_a_new_registry_has_an_empty_index_and_no_other(registry):
    with registry.start():
        assert registry.projects() == []
        assert registry.indexes() == ["current"]


def test_its_key_derivation_takes_no_time(registry):
    """With devpi's own costs of argon2, a start takes 16 s of a processor; a random secret needs none."""
    with registry.start() as server:
        assert server.process
        usage = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        assert sum(map(int, usage[11:13])) / os.sysconf("SC_CLK_TCK") < 6


def test_secrets_are_the_owners_alone(registry, monkeypatch):
    previous = os.umask(0o002)
    try:
        devpi_state.init(registry.folder)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(registry.folder.stat().st_mode) == 0o700
    for name in ("secret", "root-password"):
        assert stat.S_IMODE((registry.folder / name).stat().st_mode) == 0o600
    assert len((registry.folder / "secret").read_bytes()) == 32
    with registry.start():
        pass


@pytest.mark.parametrize("rights", [0o044, 0o077])
def test_secrets_that_were_opened_to_others_are_closed_again(registry, rights):
    """As by a `chmod -R a+r` of the mirror, for a plain file server; devpi does not start then."""
    devpi_state.init(registry.folder)
    found = [registry.folder, *registry.folder.rglob("*")]
    for path in found:
        path.chmod(path.stat().st_mode | rights)
    with registry.start():
        assert registry.projects() == []
    for name in ("secret", "root-password"):
        assert stat.S_IMODE((registry.folder / name).stat().st_mode) & 0o077 == 0


def test_init_again_changes_nothing(registry):
    devpi_state.init(registry.folder)
    before = {path: path.stat().st_mtime_ns for path in registry.folder.rglob("*")}
    devpi_state.init(registry.folder)
    assert {path: path.stat().st_mtime_ns for path in registry.folder.rglob("*")} == before


def test_a_lost_secret_is_made_again(registry):
    devpi_state.init(registry.folder)
    (registry.folder / "secret").unlink()
    with registry.start():
        assert registry.projects() == []


def test_options_of_the_users_own_devpi_have_no_effect(registry, monkeypatch, tmp_path):
    monkeypatch.setenv("DEVPISERVER_HOST", "0.0.0.0")
    monkeypatch.setenv("DEVPISERVER_SERVERDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DEVPISERVER_PRIMARY_URL", "http://primary.example/")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "devpi-server").mkdir()
    (tmp_path / "devpi-server" / "devpi-server.yml").write_text("devpi-server:\n  role: replica\n")
    wheel = make_wheel(tmp_path, "lockstock-it", "1.0")
    registry.publish("0001-a", registry.stock(wheel, "lockstock-it", "1.0"))
    with registry.start():
        assert registry.projects() == ["lockstock-it"]


@pytest.mark.usefixtures("web_server")
@pytest.mark.parametrize("begin", [devpi_server.start, behind, devpi_server.is_up])
def test_a_port_that_another_program_holds_is_refused(registry, begin):
    devpi_state.init(registry.folder)
    with pytest.raises(RegistryError, match="taken by another program") as caught:
        begin(registry.folder, registry.port)
    assert caught.value.where == f"127.0.0.1:{registry.port}"
    assert "`port`" in caught.value.hint


def test_a_port_where_nobody_answers_is_refused(registry, monkeypatch):
    monkeypatch.setattr(devpi_server, "_ANSWER_LIMIT", 0.2)
    with (
        socket.create_server(("127.0.0.1", registry.port)),
        pytest.raises(RegistryError, match="taken by another program"),
    ):
        registry.start()


def test_another_mirrors_devpi_is_another_program(registry, tmp_path):
    other = Registry(tmp_path / "other", port=registry.port)
    with other.start(), pytest.raises(RegistryError, match="taken by another program"):
        registry.start()


def test_a_server_that_cannot_start_is_told_with_its_log(registry):
    devpi_state.init(registry.folder)
    (devpi_state.server_folder(registry.folder) / ".sqlite").unlink()
    with pytest.raises(RegistryError, match="does not start") as caught:
        registry.start()
    log = registry.folder / "server.log"
    assert str(log) in caught.value.hint
    assert "No sqlite storage found" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_well_when_it_is_asked_to(registry, number):
    devpi_state.init(registry.folder)
    with foreground(registry) as process:
        wait_until(lambda: devpi_server.is_up(registry.folder, registry.port))
        with pytest.raises(RegistryError, match="runs already"):
            behind(registry.folder, registry.port)
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Serving on http://127.0.0.1:" in log
    assert not devpi_server.is_up(registry.folder, registry.port)


def test_starting_waits_for_a_writer(registry):
    devpi_state.init(registry.folder)
    with devpi_state.locked(registry.folder), foreground(registry) as process:
        time.sleep(1)
        assert not devpi_server.is_up(registry.folder, registry.port)
        process.kill()


def test_many_who_start_it_at_once_share_one(registry):
    with ThreadPoolExecutor(4) as pool:
        servers = [task.result() for task in [pool.submit(registry.start) for _ in range(4)]]
        assert sorted(server.process is None for server in servers) == [False, True, True, True]
        for server in servers:
            server.stop()
    assert not devpi_server.is_up(registry.folder, registry.port)


def test_serve_ends_with_the_code_of_a_server_that_fails(registry):
    devpi_state.init(registry.folder)
    (devpi_state.server_folder(registry.folder) / ".sqlite").unlink()
    with foreground(registry) as process:
        _, log = process.communicate(timeout=20)
    assert process.returncode not in (0, None)
    assert b"No sqlite storage found" in log


@pytest.mark.parametrize("function", ["serve", "start"])
def test_a_killed_parent_leaves_no_stray_server(registry, function):
    devpi_state.init(registry.folder)
    with foreground(registry, function) as process:
        wait_until(lambda: devpi_server.is_up(registry.folder, registry.port))
        process.kill()
    wait_until(lambda: not devpi_server.is_up(registry.folder, registry.port))
