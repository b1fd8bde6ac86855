"""Serving about 200 packages to uv: `mirror serve` against nginx on the same tree, and pages against devpi's.

Needs nginx. Each round installs into an empty folder without a cache; pages are asked for over one
connection, the next when the last has come.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from benchmarks.paired import Contestant, compare, rounds, venv_command
from mirror.console import print_table
from mirror.layout import Layout
from mirror.publish import devpi_server
from mirror.serve.negotiate import JSON_TYPE

HERE = Path(__file__).parent
SERVE_PORT, NGINX_PORT = 3987, 3986
SECONDS = 3.0
CONFIG = (
    f'[mirror]\ntools = []\nport = {SERVE_PORT}\n[targets]\nglibc = "2.36"\n'
    '[locks.all]\npath = "requirements.txt"\n'
)
NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 2; {user}
events {{}}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    map $http_accept $page {{
        default index.html;
        "~application/vnd\\.pypi\\.simple\\.(v1|latest)\\+json" index.json;
    }}
    types {{ text/html html; application/vnd.pypi.simple.v1+json json; }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        root {tree};
        location /simple/ {{ index $page; add_header Vary Accept; }}
        location /npm/ {{ try_files $uri $uri/install.json =404; }}
    }}
}}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stock(folder)
        with running(mirror_command(folder), SERVE_PORT), running(nginx_command(folder), NGINX_PORT):
            clients = [uv(folder, "mirror serve", SERVE_PORT), uv(folder, "nginx", NGINX_PORT)]
            compare("uv pip install", clients, rounds())
            ask_for_pages()


def stock(folder: Path) -> None:
    """Lock the packages, and fill a mirror with them."""
    lock = [venv_command("uv"), "pip", "compile", "-q", "--generate-hashes", "--only-binary", ":all:"]
    out = ["-o", str(folder / "requirements.txt")]
    subprocess.run([*lock, str(HERE / "packages.in"), *out], check=True, stdout=subprocess.DEVNULL)
    (folder / "lockstock.toml").write_text(CONFIG)
    refresh = [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(folder / "lockstock.toml")]
    subprocess.run(refresh, check=True, capture_output=True)


def mirror_command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "mirror", "serve", "-c", str(folder / "lockstock.toml")]


def nginx_command(folder: Path) -> list[str]:
    tree = Layout(folder / ".lockstock").tree / "current"
    user = "user root;" if Path("/root").owner() == folder.owner() else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, tree=tree, port=NGINX_PORT, user=user))
    return [
        shutil.which("nginx") or sys.exit("nginx is not installed: apt-get install nginx-light"),
        "-c",
        str(config),
    ]


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a server, from when it listens."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not listens(port):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} does not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def uv(folder: Path, name: str, port: int) -> Contestant:
    out = folder / "out"
    command = [venv_command("uv"), "pip", "install", "-q", "--no-config", "--no-cache", "--require-hashes"]
    command += ["--no-deps", "--python", sys.executable, "--target", str(out)]
    command += ["--index-url", f"http://127.0.0.1:{port}/simple/", "-r", str(folder / "requirements.txt")]
    return Contestant(name, command, lambda: shutil.rmtree(out, ignore_errors=True))


def ask_for_pages() -> None:
    """Measure the rate of pages of mirror serve, of nginx and of devpi behind the first."""
    devpi = devpi_server.index_url(SERVE_PORT).partition(str(SERVE_PORT))[2]
    contestants = (
        ("mirror serve", SERVE_PORT, "/simple/"),
        ("nginx", NGINX_PORT, "/simple/"),
        ("devpi", SERVE_PORT, devpi),
    )
    rates = {name: rate(port, [f"{index}packaging/"], JSON_TYPE) for name, port, index in contestants}
    rows = [(name, f"{value:.0f}", f"{rates['mirror serve'] / value:.2f}") for name, value in rates.items()]
    print_table("pages", ("", "a second", "mirror serve is faster by"), rows)


def rate(port: int, paths: Sequence[str], accept: str, *, at_least: int = 0) -> float:
    """Ask for these pages in turn for some seconds, and for `at_least` so many; give the answers a second."""
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {accept}\r\n\r\n" for path in paths
    ]
    count, begun = 0, time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        while time.perf_counter() - begun < SECONDS or count < at_least:
            connection.sendall(requests[count % len(requests)].encode())
            read_answer(answers)
            count += 1
    return count / (time.perf_counter() - begun)


def read_answer(answers: BinaryIO) -> None:
    """Read one answer, whose length is told or that comes in chunks."""
    status = answers.readline()
    assert b" 200 " in status, status
    length, chunked = 0, False
    for line in iter(answers.readline, b"\r\n"):
        name, _, value = line.lower().partition(b":")
        length = int(value) if name == b"content-length" else length
        chunked = chunked or name == b"transfer-encoding"
    while chunked and (size := int(answers.readline(), 16)):
        answers.read(size + 2)
    answers.read(2 if chunked else length)


if __name__ == "__main__":
    main()
