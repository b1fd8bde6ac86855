"""Images on their way to a registry, which is Debian's docker-registry on loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from benchmarks.images import BASE, LEAN, NAME, ONE, Project, bumped, dockerfile, locked, nothing, run
from benchmarks.paired import Contestant, compare, rounds
from mirror.console import print_table

HOST = "127.0.0.1:5917"
_TIMED = {NAME: "imagegen", LEAN: "imagegen, wheels = false"}
_IMAGES = {**_TIMED, f"{LEAN}-zstd": "imagegen, wheels = false, zstd"}
_INSTALLERS = ("pip", "uv")
# One that shares a layer with others, and one that has its own: to an installer's layer it is all the same.
_BUMPED = {"certifi": _INSTALLERS, "django": ()}
_ACCEPT = {
    "Accept": "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
}


@contextmanager
def registry(folder: Path) -> Iterator[Path]:
    """Run the registry while the block runs, with its data below a new folder, and give that."""
    data = folder / "registry"
    (folder / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{HOST}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {data}}}}}\n"
    )
    words = ["docker-registry", "serve", str(folder / "registry.yml")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(HOST.partition(":")[2]))) == 0:
                        break
                time.sleep(0.1)
            yield data
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(data, ignore_errors=True)


def push(project: Project) -> None:
    """Time the way from nothing to an image that can be pulled; only the base is in the registry."""
    with registry(project.folder) as data:
        _push_bases(project)
        kept = data.with_name("bases-only")
        shutil.copytree(data, kept)
        memory = project.mirror / "registries"
        shutil.copytree(memory, kept.with_name("memory"))

        def prepare() -> None:
            """Forget what was built and pushed; both know where the base lies."""
            for folder, source in ((data, kept), (memory, kept.with_name("memory"))):
                shutil.rmtree(folder)
                shutil.copytree(source, folder)
            project.forget()

        found = [_lockstock(project, image, prepare) for image in _TIMED]
        found += [_with(project, name, prepare, cold=True) for name in _INSTALLERS]
        compare("cold, until it can be pulled", found, rounds())


def push_bump(project: Project) -> None:
    """Time the way from a lock that was never built to an image that can be pulled; the last one is there."""
    with registry(project.folder):
        _push_bases(project)
        bumps = project.bumps()
        found = [_lockstock(project, image, bumps) for image in _TIMED]
        found += [_with(project, name, nothing, cold=False) for name in _INSTALLERS]
        for contestant in found:
            run(*contestant.command)
        compare("one package bumped, until it can be pulled", found, rounds())


def _push_bases(project: Project) -> None:
    project.forget()
    shutil.rmtree(project.mirror / "registries", ignore_errors=True)  # what an earlier registry held
    run(*project.imagegen("push", BASE, f"{HOST}/{BASE}:latest"))
    run("docker", "tag", project.base(), f"{HOST}/base:latest")
    run("docker", "push", "--quiet", f"{HOST}/base:latest")
    run("docker", "rmi", f"{HOST}/base:latest")  # the name; the engine goes on knowing where its layers lie


def _lockstock(project: Project, image: str, prepare: Callable[[], object]) -> Contestant:
    words = project.imagegen("build", image, "--push", f"{HOST}/{image}:latest")
    return Contestant(f"{_IMAGES[image]}, --push", words, prepare)


def _with(project: Project, name: str, prepare: Callable[[], object], *, cold: bool) -> Contestant:
    built = dockerfile(project, NAME, name, cold=cold)
    place = f"{HOST}/{NAME}-{name}:latest"
    words = [*built.command, "&&", "docker", "tag", f"{NAME}-{name}", place]
    words += ["&&", "docker", "push", "--quiet", place]
    line = " ".join(word if word == "&&" else quote(word) for word in words)
    return Contestant(f"{built.name}, docker push", ["sh", "-c", line], prepare)


def travel(project: Project) -> None:
    """Print how large each image is, and what of it travels after one package was bumped."""
    with registry(project.folder) as data:
        lock, before = project.lock, _all_pushed(project, data, _INSTALLERS)
        for package, installers in _BUMPED.items():
            lock = bumped(lock, package, project.folder / f"travel-{package}")
            project.use(lock, one=locked(lock, package))
            own, after = _own_layer(project, package), _all_pushed(project, data, installers)
            rows = [_row(name, before[name], held, own) for name, held in after.items()]
            columns = ("", "compressed", "layers", "to push", "to pull", "to pull / own layer")
            print_table(f"{package} bumped, whose own layer is {_kilobytes(own)}", columns, rows)
            before = after


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An image in the registry: the sizes of what a puller fetches by digest, and what its push stored."""

    pieces: Mapping[str, int]
    layers: int
    stored: int


def _row(name: str, before: _Held, after: _Held, own: int) -> tuple[str, ...]:
    fresh = sum(size for digest, size in after.pieces.items() if digest not in before.pieces)
    return (
        name,
        f"{sum(after.pieces.values()) / 1e6:.1f} MB",
        str(after.layers),
        _kilobytes(after.stored),
        _kilobytes(fresh),
        f"{fresh / own:.2f}",
    )


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:.0f} kB"


def _all_pushed(project: Project, data: Path, installers: Sequence[str]) -> dict[str, _Held]:
    """Build and push lockstock's images and those of Dockerfiles with these installers."""
    found = {}
    for image, said in _IMAGES.items():
        contestant = _lockstock(project, image, nothing)
        found[said] = _pushed(image, contestant, data)
    for name in installers:
        contestant = _with(project, name, nothing, cold=False)
        found[f"Dockerfile with {name}"] = _pushed(f"{NAME}-{name}", contestant, data)
    return found


def _pushed(repository: str, contestant: Contestant, data: Path) -> _Held:
    before = _stored(data)
    run(*contestant.command)
    request = urllib.request.Request(f"http://{HOST}/v2/{repository}/manifests/latest", headers=_ACCEPT)
    with urllib.request.urlopen(request) as response:
        manifest = response.read()
    content = json.loads(manifest)
    pieces = {one["digest"]: one["size"] for one in (content["config"], *content["layers"])}
    pieces[f"sha256:{hashlib.sha256(manifest).hexdigest()}"] = len(manifest)
    return _Held(pieces=pieces, layers=len(content["layers"]), stored=_stored(data) - before)


def _stored(data: Path) -> int:
    return sum(blob.stat().st_size for blob in data.glob("docker/registry/v2/blobs/*/*/*/data"))


def _own_layer(project: Project, package: str) -> int:
    """Give the size of the layer that a package has where it is the only one."""
    run(*project.imagegen("build", ONE, "-o", f"oci:{project.folder}/layout"))
    words = project.imagegen("inspect", ONE, "--json")
    told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    (found,) = [layer["size"] for layer in told["layers"] if layer["comment"].startswith(f"{package} ")]
    return int(found)
