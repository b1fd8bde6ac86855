"""What images are measured on: a lock, its mirror, and Dockerfiles that install the same with pip and uv."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.paired import Contestant, rounds, venv_command
from imagegen.engines.builders import Builder, choose_builder
from imagegen.engines.buildkit import BuildKit
from imagegen.engines.docker import DockerEngine

HERE = Path(__file__).parent
ROOT = HERE.parent
# Any version of it will do for all that need it.
BUMPED = "certifi"
NAME = "lockstock-bench"
PLAIN = f"{NAME}-plain"
LEAN = f"{NAME}-without-wheels"
ONE = f"{NAME}-one"
BASE = f"{NAME}-base"
CONFIG = f"""\
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.app]
path = "requirements.txt"
[locks.one]
path = "one.txt"
[locks.none]
path = "none.txt"
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
[images.{PLAIN}]
base = "debian:bookworm"
locks = ["app"]
compile = false
[images.{LEAN}]
base = "debian:bookworm"
locks = ["app"]
wheels = false
[images.{LEAN}-zstd]
base = "debian:bookworm"
locks = ["app"]
wheels = false
compression = "zstd"
[images.{ONE}]
base = "debian:bookworm"
locks = ["one"]
[images.{BASE}]
base = "debian:bookworm"
locks = ["none"]
user = "base"
"""
WITH_PIP = """\
FROM {base}
COPY requirements.txt /
RUN python3 -m venv /venv && /venv/bin/pip install {compile} --no-cache-dir --require-hashes \
    --index-url http://127.0.0.1:{port}/simple/ -r /requirements.txt
"""
WITH_UV = """\
FROM {base}
COPY uv requirements.txt /
RUN /uv venv -q /venv && VIRTUAL_ENV=/venv /uv pip install -q --no-cache --require-hashes \
    {compile} --default-index http://127.0.0.1:{port}/simple/ -r /requirements.txt
"""
# Each installer's word for compiling, and for leaving it.
DOCKERFILES = {
    "pip": WITH_PIP.replace("{compile}", "--compile"),
    "uv": WITH_UV.replace("{compile}", "--compile-bytecode"),
    "pip-plain": WITH_PIP.replace("{compile}", "--no-compile"),
    "uv-plain": WITH_UV.replace("{compile}", "--no-compile-bytecode"),
}


class Project:
    """A project with the lock, its mirror, and contexts for the Dockerfiles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = compiled_lock()
        for name in ("none.txt", "one.txt"):
            (folder / name).write_text("")
        (folder / "lockstock.toml").write_text(CONFIG)
        cache = ROOT / ".cache" / "bases"
        cache.mkdir(parents=True, exist_ok=True)
        self.mirror.mkdir()
        (self.mirror / "bases").symlink_to(cache)

    @property
    def mirror(self) -> Path:
        return self.folder / ".lockstock"

    def use(self, lock: str, one: str = "") -> None:
        """Refresh the mirror with a lock, which the Dockerfiles get, too; `one` is the lock of ONE."""
        (self.folder / "one.txt").write_text(one)
        for folder in (self.folder, *self.folder.glob("with-*")):
            (folder / "requirements.txt").write_text(lock)
        run(sys.executable, "-m", "mirror", "refresh", "-c", str(self.folder / "lockstock.toml"))

    def forget(self) -> None:
        """Drop the image from the engine, and all layers but not the base that they are put on."""
        forget()
        prune()
        for name in ("oci", "layers"):
            shutil.rmtree(self.mirror / name, ignore_errors=True)
        run(*self.imagegen("build", BASE, "-o", f"oci:{self.folder}/base"))

    def imagegen(self, *words: str) -> list[str]:
        """Give the words of an `imagegen` command for this project."""
        return [sys.executable, "-m", "imagegen", *words, "-c", str(self.folder / "lockstock.toml")]

    def bumps(self) -> Callable[[], None]:
        """Give a function that uses a lock that was never built, each time it is called."""
        locks = [self.lock]
        for number in range(2 * rounds()):
            locks.append(bumped(locks[-1], BUMPED, self.folder / f"bump-{number}"))
        fresh = iter(locks[1:])
        return lambda: self.use(next(fresh))

    def write_contexts(self, port: int) -> None:
        """Write the Dockerfiles, which install from the mirror's tree at this port."""
        for name, dockerfile in DOCKERFILES.items():
            context = self.folder / f"with-{name}"
            context.mkdir()
            shutil.copy(self.folder / "requirements.txt", context)
            if name.startswith("uv"):
                shutil.copy(venv_command("uv"), context / "uv")
            (context / "Dockerfile").write_text(dockerfile.format(base=self.base(), port=port))

    def base(self) -> str:
        """Give the reference of the base, which an untimed build has put into the engine."""
        run(*self.imagegen("render", NAME, "-o", str(self.folder / "out")))
        first = re.search(r"^FROM (\S+)", (self.folder / "out" / "Dockerfile").read_text(), re.MULTILINE)
        assert first
        return first[1]


def contestants(project: Project, image: str, *, cold: bool) -> list[Contestant]:
    """Give what builds an image of that name: lockstock to two places, pip and uv."""
    made = project.imagegen("build", image, "--json")
    layout = [*made, "--output", f"oci:{project.folder}/layout"]
    prepare = project.forget if cold else nothing
    return [
        Contestant("imagegen build -o oci:", layout, prepare),
        Contestant("imagegen build", made, prepare),
        *(dockerfile(project, image, name, cold=cold) for name in ("pip", "uv")),
    ]


def dockerfile(project: Project, image: str, name: str, *, cold: bool) -> Contestant:
    """Give what builds the same with `docker build` and one of the installers, with BuildKit where it is."""
    kind, builder = image.replace(NAME, name), docker_builder()
    program = builder.program if isinstance(builder, BuildKit) else "docker"
    words = ["env", f"DOCKER_BUILDKIT={int(isinstance(builder, BuildKit))}", program, "build", "--quiet"]
    words += ["--network", "host", "--label", NAME, "-t", f"{NAME}-{kind}"]
    words += [*(["--no-cache"] if cold else []), str(project.folder / f"with-{kind}")]
    return Contestant(f"Dockerfile with {name}, {builder.name}", words)


@functools.cache
def docker_builder() -> Builder:
    """Give what runs Dockerfiles here."""
    return choose_builder(DockerEngine())


def compiled_lock() -> str:
    """Give a lock of benchmarks/images.in with hashes, made by uv."""
    words = [venv_command("uv"), "pip", "compile", "-q", "--generate-hashes", "--python-version", "3.11"]
    words += ["--no-annotate", "--no-header", "--only-binary", ":all:", str(HERE / "images.in")]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def bumped(lock: str, package: str, folder: Path) -> str:
    """Give the lock with one pure package at the version before its own."""
    old = locked(lock, package)
    version = old.partition("==")[2].split()[0]
    download = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    run(sys.executable, "-m", *download, f"{package}<{version}")
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return lock.replace(old, f"{package}=={wheel.name.split('-')[1]} --hash=sha256:{digest}\n")


def locked(lock: str, package: str) -> str:
    """Give the lines of a lock that are about one package."""
    found = re.search(rf"^{package}==[^\n]*\n(?: +--hash[^\n]*\n)*", lock, re.MULTILINE)
    assert found
    return found[0]


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
    """Run a command, and end all of this where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stderr[-2000:]}")


def nothing() -> None:
    """Prepare nothing."""


def forget(names: Sequence[str] = (f"lockstock/{NAME}",)) -> None:
    """Drop images from the engine; lockstock's base stays, as that of the Dockerfiles does."""
    for name in names:
        listed = ["docker", "images", "-q", name]
        images = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())
        if images:
            run("docker", "rmi", "--force", *sorted(images))


def prune() -> None:
    """Drop images that lost their names to later builds, and what BuildKit keeps: it would fill the disk."""
    run("docker", "image", "prune", "--force", "--filter", f"label={NAME}")
    run("docker", "builder", "prune", "--force")
