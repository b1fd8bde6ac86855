"""`imagegen build` against hand-written Dockerfiles that run pip and uv: cold, unchanged, one bump.

All begin with the same base and install one lock of about 100 wheels (benchmarks/images.in, compiled
by uv when this starts) with hashes into a virtual environment. pip compiles modules, so lockstock and
uv do, too; a second cold run is without. The Dockerfiles' wheels come over HTTP from the mirror's own
static tree on this host, which is faster than any index; lockstock's image holds the wheels too and
needs no network. Bytes are what a registry is sent, and a puller fetches, after the bump.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds, venv_command
from mirror.console import print_table

HERE = Path(__file__).parent
ROOT = HERE.parent
# Everything takes any version of it.
BUMPED = "certifi"
NAME = "lockstock-bench"
PLAIN = f"{NAME}-plain"
CONFIG = f"""\
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.app]
path = "requirements.txt"
[locks.none]
path = "none.txt"
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
[images.{PLAIN}]
base = "debian:bookworm"
locks = ["app"]
compile = false
[images.{NAME}-base]
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
        (folder / "none.txt").write_text("")
        self.locks = [compiled_lock()]
        for number in range(2 * rounds()):
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
        run(*self.imagegen("build", f"{NAME}-base", "-o", f"oci:{self.folder}/base"))

    def imagegen(self, *words: str) -> list[str]:
        """Give the words of an `imagegen` command for this project."""
        return [sys.executable, "-m", "imagegen", *words, "-c", self.config]

    def bump(self) -> Callable[[], None]:
        """Give a function that uses a lock that was never built, each time it is called."""
        numbers = iter(range(1, len(self.locks)))
        return lambda: self.lock(next(numbers))

    def write_context(self, name: str, dockerfile: str, port: int) -> None:
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


def compiled_lock() -> str:
    """Give a lock of benchmarks/images.in with hashes, made by uv."""
    words = [venv_command("uv"), "pip", "compile", "-q", "--generate-hashes", "--python-version", "3.11"]
    words += ["--no-annotate", "--no-header", "--only-binary", ":all:", str(HERE / "images.in")]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


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


def contestants(project: Project, image: str, *, cold: bool) -> list[Contestant]:
    """Give what builds an image of that name: lockstock to two places, pip and uv."""
    made = project.imagegen("build", image, "--json")
    layout = [*made, "--output", f"oci:{project.folder}/layout"]
    found = [
        Contestant("imagegen build -o oci:", layout, project.forget if cold else nothing),
        Contestant("imagegen build", made, project.forget if cold else nothing),
    ]
    for name in ("pip", "uv"):
        kind = image.replace(NAME, name)
        words = ["docker", "build", "--quiet", "--network", "host", "-t", f"{NAME}-{kind}"]
        words += [*(["--no-cache"] if cold else []), str(project.folder / f"with-{kind}")]
        found.append(Contestant(f"Dockerfile with {name}", words, environment={"DOCKER_BUILDKIT": "0"}))
    return found


def bumps(project: Project) -> list[Contestant]:
    """Give the same with a lock that was never built, in each round and for both of lockstock's places."""
    found = contestants(project, NAME, cold=False)
    found[0].prepare = found[1].prepare = project.bump()
    return found


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run Debian's docker-registry on loopback, and give its host and port."""
    host = "127.0.0.1:5917"
    (folder / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
    )
    words = ["docker-registry", "serve", str(folder / "registry.yml")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield host
        finally:
            process.kill()


def layers(host: str, name: str) -> dict[str, int]:
    """Give the layers of an image that was pushed, with their compressed sizes."""
    accept = {
        "Accept": "application/vnd.oci.image.manifest.v1+json, "
        "application/vnd.docker.distribution.manifest.v2+json"
    }
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/latest", headers=accept)
    with urllib.request.urlopen(request) as response:
        return {layer["digest"]: layer["size"] for layer in json.load(response)["layers"]}


def pushed(project: Project, host: str) -> dict[str, dict[str, int]]:
    """Build and push all three images, and give their layers."""
    found = {}
    for contestant in contestants(project, NAME, cold=False)[1:]:
        run(*contestant.command)
    run(*project.imagegen("push", NAME, f"{host}/{NAME}:latest"))
    found["lockstock"] = layers(host, NAME)
    for name in ("pip", "uv"):
        run("docker", "tag", f"{NAME}-{name}", f"{host}/{NAME}-{name}:latest")
        run("docker", "push", "--quiet", f"{host}/{NAME}-{name}:latest")
        found[name] = layers(host, f"{NAME}-{name}")
    return found


def travel(project: Project, folder: Path) -> None:
    """Print what of each image travels after one package was bumped, and how large they are."""
    with registry(folder) as host:
        project.lock(0)
        before = pushed(project, host)
        project.lock(1)
        after = pushed(project, host)
    rows = []
    for name, held in after.items():
        fresh = sum(size for digest, size in held.items() if digest not in before[name])
        rows.append((name, f"{sum(held.values()) / 1e6:.0f} MB", f"{fresh / 1e6:.2f} MB", f"{len(held)}"))
    print_table("in a registry", ("", "compressed", "after one bump", "layers"), rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.umask(0o022)
        project = Project(Path(name))
        project.lock(0)
        run(*project.imagegen("build", NAME))
        with served(project.folder / ".lockstock" / "tree" / "current") as port:
            for kind, dockerfile in DOCKERFILES.items():
                project.write_context(kind, dockerfile, port)
            compare("cold, compiled", contestants(project, NAME, cold=True), rounds())
            compare("cold, not compiled", contestants(project, PLAIN, cold=True), rounds())
            for contestant in contestants(project, NAME, cold=False):
                run(*contestant.command)  # the last cold run was another image's
            compare("unchanged", contestants(project, NAME, cold=False), rounds())
            compare("one package bumped", bumps(project), rounds())
            travel(project, project.folder)
        forget()
        run("docker", "rmi", "--force", *(f"{NAME}-{kind}" for kind in DOCKERFILES))


if __name__ == "__main__":
    main()
