"""`imagegen build` against hand-written Dockerfiles that run pip and uv: cold, unchanged, one bump.

All begin with the same base, install the example's lock with hashes into a virtual environment and
compile it; `-o oci:` leaves the engine out. The Dockerfiles' wheels come over HTTP from the mirror's
own static tree on this host, which is faster than any index; lockstock's image holds the wheels too
and needs no network.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds, venv_command

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "examples" / "service" / "requirements.txt"
BUMPED = "packaging"
NAME = "lockstock-bench"
CONFIG = f"""\
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.app]
path = "requirements.txt"
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
"""
WITH_PIP = """\
FROM {base}
COPY requirements.txt /
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes \
    --index-url http://127.0.0.1:{port}/simple/ -r /requirements.txt
"""
WITH_UV = """\
FROM {base}
COPY uv requirements.txt /
RUN /uv venv -q /venv && VIRTUAL_ENV=/venv /uv pip install -q --no-cache --require-hashes \
    --compile-bytecode --default-index http://127.0.0.1:{port}/simple/ -r /requirements.txt
"""


class Project:
    """A project with the example's lock, its mirror, and contexts for the Dockerfiles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.locks = [LOCK.read_text()]
        for number in range(rounds()):
            self.locks.append(bumped(self.locks[-1], folder / f"bump-{number}"))
        (folder / "lockstock.toml").write_text(CONFIG)
        cache = ROOT / ".cache" / "bases"
        cache.mkdir(parents=True, exist_ok=True)
        (folder / ".lockstock").mkdir()
        (folder / ".lockstock" / "bases").symlink_to(cache)

    @property
    def config(self) -> str:
        return str(self.folder / "lockstock.toml")

    def lock(self, number: int) -> None:
        """Use the lock as it is (0) or with one package at another version for each number."""
        for folder in (self.folder, *self.folder.glob("with-*")):
            (folder / "requirements.txt").write_text(self.locks[number])
        run(sys.executable, "-m", "mirror", "refresh", "-c", self.config)

    def forget(self) -> None:
        """Drop the image from the engine, and all layers but not the base that they are put on."""
        forget()
        for name in ("oci", "layers"):
            shutil.rmtree(self.folder / ".lockstock" / name, ignore_errors=True)

    def bump(self) -> Callable[[], None]:
        """Give a function that uses a lock that was never built, each time it is called."""
        numbers = iter(range(1, len(self.locks)))
        return lambda: self.lock(next(numbers))

    def write_context(self, name: str, dockerfile: str, port: int) -> None:
        context = self.folder / f"with-{name}"
        context.mkdir()
        shutil.copy(self.folder / "requirements.txt", context)
        if name == "uv":
            shutil.copy(venv_command("uv"), context / "uv")
        (context / "Dockerfile").write_text(dockerfile.format(base=self.base(), port=port))

    def base(self) -> str:
        """Give the reference of the base, which an untimed build has put into the engine."""
        run(
            sys.executable,
            "-m",
            "imagegen",
            "render",
            NAME,
            "-o",
            str(self.folder / "out"),
            "-c",
            self.config,
        )
        first = re.search(r"^FROM (\S+)", (self.folder / "out" / "Dockerfile").read_text(), re.MULTILINE)
        assert first
        return first[1]


def bumped(lock: str, folder: Path) -> str:
    """Give the lock with one pure package at the version before its own."""
    old = re.search(rf"^{BUMPED}==(\S+)[^#]*?\n(?=    #|\S)", lock, re.MULTILINE)
    assert old
    download = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    run(sys.executable, "-m", *download, f"{BUMPED}<{old[1]}")
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    version = wheel.name.split("-")[1]
    return lock.replace(old[0], f"{BUMPED}=={version} --hash=sha256:{digest}\n")


@contextmanager
def served(tree: Path) -> Iterator[int]:
    """Serve a folder on loopback while the block runs, and give the port."""

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tree)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stderr[-2000:]}")


def nothing() -> None:
    """Prepare nothing."""


def forget() -> None:
    """Drop what the engine holds of lockstock's image; its base stays, as that of the Dockerfiles does."""
    listed = ["docker", "images", "-q", f"lockstock/{NAME}"]
    images = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())
    if images:
        run("docker", "rmi", "--force", *sorted(images))


def contestants(project: Project, *, cold: bool) -> list[Contestant]:
    made = [sys.executable, "-m", "imagegen", "build", NAME, "--json", "-c", project.config]
    layout = [*made, "--output", f"oci:{project.folder}/layout"]
    found = [
        Contestant("imagegen build", made, project.forget if cold else nothing),
        Contestant("imagegen build -o oci:", layout, project.forget if cold else nothing),
        Contestant("imagegen --engine docker", [*made, "--engine", "docker"], forget if cold else nothing),
    ]
    for name in ("pip", "uv"):
        words = ["docker", "build", "--quiet", "--network", "host", "-t", f"{NAME}-{name}"]
        words += [*(["--no-cache"] if cold else []), str(project.folder / f"with-{name}")]
        found.append(Contestant(f"Dockerfile with {name}", words, environment={"DOCKER_BUILDKIT": "0"}))
    return found


def sizes() -> None:
    """Print how large the images are."""
    for name in (f"lockstock/{NAME}:latest", f"{NAME}-pip", f"{NAME}-uv"):
        inspect = ["docker", "image", "inspect", "--format", "{{.Size}}", name]
        size = int(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
        print(f"{name:<32} {size / 1e6:7.0f} MB")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.umask(0o022)
        project = Project(Path(name))
        project.lock(0)
        run(sys.executable, "-m", "imagegen", "build", NAME, "-c", project.config)
        with served(project.folder / ".lockstock" / "tree" / "current") as port:
            project.write_context("pip", WITH_PIP, port)
            project.write_context("uv", WITH_UV, port)
            compare("cold", contestants(project, cold=True), rounds())
            compare("unchanged", contestants(project, cold=False), rounds())
            change = contestants(project, cold=False)
            change[0].prepare = project.bump()
            change[2].prepare = forget  # not to find the image that the first has just loaded
            del change[1]  # which would find that, too
            compare("one package bumped", change, rounds())
        sizes()
        run("docker", "rmi", "--force", f"{NAME}-pip", f"{NAME}-uv")
        forget()


if __name__ == "__main__":
    main()
