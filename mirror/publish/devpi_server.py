"""devpi-server as a child process on loopback: started, recognised, watched, stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO

from mirror.errors import RegistryError
from mirror.publish import devpi_process, devpi_state

HOST = "127.0.0.1"
LOG = "server.log"
_START_LIMIT = 60.0  # seconds, as the others
_STOP_LIMIT = 10.0
_ANSWER_LIMIT = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. Leaving its `with` block stops it if it was started for this one."""

    port: int
    process: subprocess.Popen[bytes] | None

    @property
    def index_url(self) -> str:
        """The URL to give to pip and uv as their index."""
        return index_url(self.port)

    @property
    def exit_code(self) -> int | None:
        """How the started server ended, if it has: as a shell tells it."""
        code = self.process.poll() if self.process else None
        return 128 - code if code is not None and code < 0 else code

    def stop(self) -> None:
        """End the server unless it ran before; devpi's storage is safe to be cut off."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def index_url(port: int) -> str:
    """Give the URL of the stable index, the one that shows the current snapshot."""
    return f"http://{HOST}:{port}/{devpi_state.USER}/{devpi_state.STABLE}/+simple/"


def is_up(folder: Path, port: int) -> bool:
    """Say whether this registry's server answers. Raises RegistryError if another program does."""
    found = _who_answers(port)
    if found is None:
        return False
    if found != devpi_state.identity(folder):
        raise RegistryError(
            "the port is taken by another program, which is not this mirror's devpi",
            where=f"{HOST}:{port}",
            hint="stop that program, or set another `port` under [mirror] in lockstock.toml",
        )
    return True


def start(folder: Path, port: int, *, private: bool = False) -> Server:
    """Give the running server of the registry in `folder`, started if it is not up.

    With `private` it is started on a free port, not on the one that clients know, for devpi alone lets
    in everybody. A started server ends with the thread that started it, however that ends. Raises
    RegistryError when it does not come up or the port is taken.
    """
    devpi_state.init(folder)
    with devpi_state.locked(folder):
        if is_up(folder, port):
            return Server(port=port, process=None)
        port = _free_port() if private else port
        with (folder / LOG).open("wb") as log:
            server = Server(port=port, process=_spawn(folder, port, log))
        up = False
        try:
            up = _comes_up(server, folder)
        finally:
            if not up:
                server.stop()
    if not up:
        raise RegistryError(
            "devpi-server does not start", where=f"{HOST}:{port}", hint=f"its log says why: {folder / LOG}"
        )
    return server


def start_behind(folder: Path, host: str, port: int, *, web: bool = False) -> tuple[Server, socket.socket]:
    """Listen on `port`, and start the server on a free one behind it, its log on stderr.

    With `web`, devpi-web is loaded, which has to be installed. The server ends with the thread that
    started it. Raises RegistryError when the mirror is served already, `port` is taken, or devpi does
    not come up.
    """
    devpi_state.init(folder)
    with devpi_state.locked(folder):
        _refuse_second(folder, port)
        try:
            listener = _listen(host, port)
            free = _free_port()
        except OSError as error:
            raise RegistryError(f"cannot listen: {error.strerror}", where=f"{in_url(host)}:{port}") from error
        server = Server(port=free, process=_spawn(folder, free, sys.stderr, web=web))
        if not _comes_up(server, folder):
            listener.close()
            server.stop()
            raise RegistryError("devpi-server does not start", where=str(folder), hint="it says why above")
    return server, listener


def in_url(host: str) -> str:
    """Write a name or an address as it stands in a URL, before the port."""
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    """Listen on an address, which may be of IPv6; on all of those for `::`, and all of IPv4 with them."""
    if ":" not in host:
        return socket.create_server((host, port))
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=both)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _refuse_second(folder: Path, port: int) -> None:
    if is_up(folder, port):
        raise RegistryError(
            "this mirror's devpi runs already",
            where=f"{HOST}:{port}",
            hint="a refresh ends its own when it is done; another `mirror serve` has to be stopped",
        )


def _spawn(
    folder: Path, port: int, log: IO[bytes] | IO[str], *, web: bool = False
) -> subprocess.Popen[bytes]:
    # devpi reads DEVPISERVER_* as options; a group of its own keeps the terminal's Ctrl-C from it,
    # so that whoever started it stops it when its own work is cleaned up.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEVPI")}
    address = [*([devpi_process.WITH_WEB] if web else []), f"--host={HOST}", f"--port={port}"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", devpi_process.__name__, *address, *devpi_state.options(folder)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        process_group=0, preexec_fn=partial(_begin, os.getpid()),
    )  # fmt: skip


_libc = ctypes.CDLL(None)


def _begin(parent: int) -> None:
    """Tie this process to its parent, which may have been killed just before."""
    end_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def end_with_parent(by: int = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent ends, killed or not: no stray daemon."""
    _libc.prctl(_PR_SET_PDEATHSIG, by)


def _comes_up(server: Server, folder: Path) -> bool:
    """Wait until the server answers; say False when it has ended or takes too long."""
    identity = devpi_state.identity(folder)
    deadline = time.monotonic() + _START_LIMIT
    while _who_answers(server.port) != identity:
        if time.monotonic() > deadline or (server.process and server.process.poll() is not None):
            return False
        time.sleep(0.02)
    return True


def _who_answers(port: int) -> str | None:
    """Give the identifier of the devpi that listens; None for nobody, empty for another program."""
    for pause in (0.2, 0.0):  # a server that is just ending cuts off once, and is gone then
        try:
            return _ask(port)
        except ConnectionRefusedError:
            return None
        except ConnectionError:
            time.sleep(pause)
        except (OSError, HTTPException):
            break
    return ""


def _ask(port: int) -> str:
    connection = HTTPConnection(HOST, port, timeout=_ANSWER_LIMIT)
    try:
        connection.request("GET", "/+api", headers={"Accept": "application/json"})
        return connection.getresponse().getheader("X-Devpi-Uuid", "")
    finally:
        connection.close()
