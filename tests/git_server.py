"""A git server on loopback: git's own daemon."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve_git(folder: Path) -> Iterator[str]:
    """Serve all repositories below a folder; gives the URL of the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["git", "daemon", "--reuseaddr", "--export-all", f"--base-path={folder}"]
    command += ["--listen=127.0.0.1", f"--port={port}", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            _await(port)
            yield f"git://127.0.0.1:{port}"
        finally:
            daemon.terminate()


def _await(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("git daemon does not start")
