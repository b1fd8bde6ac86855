"""Images and builds with links in the places of folders get no file of this host, and write none."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from imagegen.archive import Entry
from imagegen.engines.box import Box
from imagegen.errors import BuildError, WheelError
from imagegen.layers import Layer
from imagegen.oci import Image, ImageLayout
from imagegen.sdists import _only_wheel
from tests.imagegen.base_layout import tar
from tests.imagegen.plans import artifact
from tests.wheels import make_wheel


def box(folder: Path, links: dict[str, str]) -> Box:
    """Make a box of an image with these links and an empty /opt."""
    layer = tar({"opt/": None}, {name: (tarfile.SYMTYPE, target) for name, target in links.items()})
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    layout = ImageLayout(folder / "oci")
    layout.blobs.mkdir(parents=True)
    layout.blob(digest).write_bytes(layer)
    whole = Layer(digest=digest, diff_id=digest, size=len(layer))
    config = json.dumps({"config": {"Env": [], "User": "sandbox", "WorkingDir": "/"}}).encode()
    return Box(Image(manifest=b"{}", config=config, layers=(whole,)), layout, folder / "boxes", "owner")


@pytest.mark.parametrize("depth", [".", "deep"])
def test_a_link_out_of_the_box_takes_no_files(tmp_path: Path, depth: str) -> None:
    host = tmp_path / "host"
    (host / depth).mkdir(parents=True)
    entries = [Entry(path="check.py" if depth == "." else "deep/check.py", content=b"x")]

    with (
        box(tmp_path, {"tmp": str(host), "opt/deep": str(host)}) as made,
        pytest.raises(BuildError, match="leads out of it in the place of"),
    ):
        made.put(entries, "/tmp" if depth == "." else "/opt", uid=0)
    assert [path for path in host.rglob("*") if path.is_file()] == []


def test_a_link_within_the_box_is_followed(tmp_path: Path) -> None:
    with box(tmp_path, {"tmp": "opt"}) as made:
        made.put([Entry(path="check.py", content=b"x")], "/tmp", uid=0)

        assert [path.parent.name for path in (tmp_path / "boxes").rglob("check.py")] == ["opt"]


def test_no_wheel_is_taken_out_of_a_folder_of_the_host(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "host", "alpha", "1.0")
    sdist = artifact("alpha-1.0.tar.gz", "a")
    assert _only_wheel(sdist, wheel.parent) == wheel
    (tmp_path / "out").symlink_to(wheel.parent)

    for folder in (tmp_path / "out", tmp_path / "gone"):
        with pytest.raises(WheelError, match="took away the folder"):
            _only_wheel(sdist, folder)
