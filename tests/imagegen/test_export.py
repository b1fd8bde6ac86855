"""Images on their way into an engine: what it has is left out, what it lacks comes as plain tars."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from imagegen.archive import Entry, tar_stream
from imagegen.compression import Compression
from imagegen.engines.docker import uses_containerd
from imagegen.export import engine_entries
from imagegen.layers import Content, Layer, Layers
from imagegen.oci import Image, ImageLayout, make_image
from imagegen.plan import make_plan
from tests.imagegen.plans import BASE, SNAPSHOT, SPEC, TARGET

PLAN = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="0")


def layer(root: Path, name: str, compression: Compression) -> Layer:
    content = Content(tar=tar_stream([Entry(path=name, content=name.encode() * 50_000)]), facts={})
    return Layers(root, compression).get([name], name, lambda: content)[0]


def held(root: Path, layers: list[Layer]) -> tuple[Image, ImageLayout]:
    layout = ImageLayout(root / "oci")
    image = make_image(PLAN, layers, "amd64")
    layout.add(image, ["dev:1"])
    found = layout.find("dev:1")
    assert found is not None
    return found, layout


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("counted", [True, False])
def test_the_engine_is_given_plain_layers(tmp_path: Path, compression: Compression, *, counted: bool) -> None:
    made = [layer(tmp_path, name, compression) for name in ("base", "tools", "app")]
    image, layout = held(tmp_path, made if counted else [replace(one, unpacked=0) for one in made])
    assert all(bool(one.unpacked) is counted for one in image.layers)

    stream = b"".join(tar_stream(engine_entries(image, layout, ["dev:1"], 1)))

    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        files = {m.name: archive.extractfile(m) for m in archive.getmembers() if m.isfile()}
        contents = {name: file.read() for name, file in files.items() if file}
    (listed,) = json.loads(contents["manifest.json"])
    assert listed["RepoTags"] == ["dev:1"]
    assert contents[listed["Config"]] == image.config
    tars = [contents.get(path) for path in listed["Layers"]]
    assert tars[0] is None
    digests = [f"sha256:{sha256(tar).hexdigest()}" for tar in tars[1:] if tar is not None]
    assert digests == [one.diff_id for one in image.layers[1:]]


def test_where_an_engine_keeps_its_images() -> None:
    assert uses_containerd({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]})
    assert not uses_containerd({"DriverStatus": [["Backing Filesystem", "extfs"]]})
    assert not uses_containerd({"DriverStatus": None})
