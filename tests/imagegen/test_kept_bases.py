"""Bases that are kept: lasting when they have their names, alone while merging, damage is mended."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imagegen import basesources, compression
from imagegen.baseimages import BaseImage, Wanted, bring
from imagegen.basesources import LayoutSource, export_base
from imagegen.engines.docker import DockerEngine
from imagegen.errors import BaseError
from imagegen.live import Silent
from imagegen.oci import digest_of
from imagegen.plan import Base
from imagegen.spec import OciBase
from tests.imagegen.base_layout import BaseLayout, base_files, tar

HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


class Told(Silent):
    """Remembers the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


@pytest.fixture
def base(tmp_path: Path) -> BaseLayout:
    layout = BaseLayout(tmp_path / "base")
    layout.name("1", layout.image([tar(base_files(tmp_path, HERE))], HERE))
    return layout


def brought(base: BaseLayout, told: Told) -> BaseImage:
    wanted = Wanted(name="oci:base", tag=base.entries[0]["digest"], platform=f"linux/{HERE}")
    source = LayoutSource(OciBase(path=base.folder))
    return bring(wanted, lambda: nullcontext(source), base.folder.parent / "kept", told)


def test_two_runs_merge_once_and_sweep_what_a_killed_one_left(base: BaseLayout) -> None:
    left = base.folder.parent / "kept" / "killed.tmp"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"a layer")
    told = Told()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: brought(base, told), range(4)))

    assert len({image.digest for image in found}) == 1
    assert sum(step.startswith("merging") for step in told.steps) == 1
    assert not left.exists()


def test_a_damaged_document_is_fetched_again(base: BaseLayout) -> None:
    image = brought(base, Told())
    whole = {path: path.read_bytes() for path in image.blobs.iterdir()}
    layers = {layer.digest.removeprefix("sha256:") for layer in image.layers}
    documents = [path for path in whole if path.name not in layers]
    for path, damage in zip(documents, (b"", b"{}"), strict=True):
        path.chmod(0o644)
        path.write_bytes(damage)

    assert brought(base, Told()).settings == image.settings
    assert {path: path.read_bytes() for path in image.blobs.iterdir()} == whole


def test_what_has_its_name_is_on_the_disk(base: BaseLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    image = brought(base, Told())

    assert {path.stat().st_ino for path in (image.tarball, *image.blobs.iterdir())} <= set(synced)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["Env"], "no JSON object"),
        ({"Env": ["A=\0"]}, "Env in its configuration"),
        ("Env", "no JSON object"),
        ({"Env": 5}, "Env"),
        ({"Env": [5]}, "Env"),
        ({"Labels": ["a"]}, "Labels"),
        ({"Volumes": "/data"}, "Volumes"),
        ({"ExposedPorts": 80}, "ExposedPorts"),
        ({"StopSignal": 9}, "StopSignal"),
    ],
)
def test_strange_settings(base: BaseLayout, settings: Any, reason: str) -> None:
    base.entries.clear()
    base.name("1", base.image([tar({"a": b""})], HERE, settings))

    with pytest.raises(BaseError, match=reason):
        brought(base, Told())


def test_settings_that_are_left_out(base: BaseLayout) -> None:
    left_out = {"Env": None, "Labels": None, "Volumes": None, "ExposedPorts": None, "StopSignal": None}
    base.entries.clear()
    base.name("1", base.image([tar({"a": b""})], HERE, left_out))

    assert brought(base, Told()).settings == left_out


def test_what_a_killed_run_left_of_an_engines_base_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tar({"a": b"x"})
    config = {"architecture": HERE, "os": "linux", "rootfs": {"diff_ids": [digest_of(layer)]}}
    saved = tar(
        {
            "manifest.json": json.dumps([{"Config": "config", "Layers": ["layer.tar"]}]).encode(),
            "config": json.dumps(config).encode(),
            "layer.tar": layer,
        }
    )
    engine = cast("DockerEngine", SimpleNamespace(save=lambda reference: [saved]))
    base = Base(name="dev:1", reference="dev:1", digest=f"sha256:{'0' * 64}")
    (tmp_path / "left.tmp").write_bytes(layer)
    during: set[str] = set()

    def plain(path: Path) -> Iterator[bytes]:
        during.update(file.name for file in tmp_path.iterdir() if file.is_file())
        return compression.plain(path)

    monkeypatch.setattr(basesources, "plain", plain)

    image = export_base(engine, base, f"linux/{HERE}", tmp_path, Silent())

    assert [layer.diff_id for layer in image.layers] == config["rootfs"]["diff_ids"]  # type: ignore[index]  # what it is, stands above
    (temporary,) = during - {".lock"}
    assert temporary.endswith(".tmp")
    assert temporary != "left.tmp"
