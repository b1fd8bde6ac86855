"""Both engines give one file system; docs/images.md explains every difference that is let through here."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import dataclass

import pytest

from tests.imagegen.conftest import CLASSIC, DIRECT, NAME, Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
SITE = "opt/lockstock/venv/lib/python3.11/site-packages"
DIFFERENT = {
    "scripts of entry points, whose text is pip's or installer's": r"opt/lockstock/venv/bin/(alpha|pip.*)",
    "who installed it, and the record of that": rf"{SITE}/[^/]+\.dist-info/(INSTALLER|RECORD)",
    "bytecode, which has the time of its source": r".*/__pycache__/.*\.pyc",
    "the name of the image": r"opt/lockstock/(README|ask\.txt)",
}
ONLY_DOCKER = {
    "what was asked for, as only pip notes it": rf"{SITE}/[^/]+\.dist-info/REQUESTED",
    "what the engine puts into containers": r"\.dockerenv|etc/(hosts|hostname|resolv\.conf|mtab)|dev/.*",
}


@dataclass(frozen=True, slots=True)
class File:
    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: str


def files(image: Sandbox) -> dict[str, File]:
    container = image.engine.client.containers.create(image.reference, network_mode="none")
    try:
        data = b"".join(container.export())
    finally:
        container.remove(force=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name.rstrip("/"): _file(archive, member) for member in archive}


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    opened = archive.extractfile(member) if member.isreg() else None
    content = hashlib.sha256(opened.read()).hexdigest() if opened else member.linkname
    return File(member.type, member.mode, (member.uid, member.gid), content)


def test_file_by_file(sandbox: Sandbox, direct_sandbox: Sandbox) -> None:
    docker, direct = files(sandbox), files(direct_sandbox)

    assert unexplained(docker, direct) == []
    assert len(set(docker) & set(direct)) > 8000


def test_both_builders_of_the_engine(sandbox: Sandbox, classic_sandbox: Sandbox) -> None:
    buildkit, classic = files(sandbox), files(classic_sandbox)

    assert set(buildkit) == set(classic)
    assert unexplained(buildkit, classic) == []


def test_explained_differences_are_of_content_only(
    sandbox: Sandbox, direct_sandbox: Sandbox, classic_sandbox: Sandbox
) -> None:
    docker = files(sandbox)

    for other in (files(direct_sandbox), files(classic_sandbox)):
        for path in set(docker) & set(other):
            ours, theirs = other[path], docker[path]
            assert (ours.kind, ours.mode, ours.owner) == (theirs.kind, theirs.mode, theirs.owner), path


def test_configuration(sandbox: Sandbox, direct_sandbox: Sandbox, classic_sandbox: Sandbox) -> None:
    configurations = []
    for image, name in ((sandbox, NAME), (direct_sandbox, DIRECT), (classic_sandbox, CLASSIC)):
        config = image.engine.client.images.get(image.reference).attrs["Config"]
        labels = {key: value for key, value in config["Labels"].items() if not key.endswith(".version")}
        assert labels.pop("org.opencontainers.image.title") == name
        kept = {key: config.get(key) or None for key in ("User", "WorkingDir", "Cmd", "Entrypoint")}
        configurations.append({**kept, "Env": sorted(config["Env"]), "Labels": labels})

    assert configurations[0] == configurations[1] == configurations[2]


def unexplained(docker: dict[str, File], other: dict[str, File]) -> list[str]:
    """Name the files that are not the same in both, and for which nothing above stands."""
    both = set(docker) & set(other)
    found = [path for path in set(docker) ^ set(other) if path in other or not explained(path, ONLY_DOCKER)]
    found += [path for path in both if docker[path] != other[path] and not explained(path, DIFFERENT)]
    return sorted(found)


def explained(path: str, patterns: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns.values())
