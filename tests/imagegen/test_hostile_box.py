"""Images and builds with links in the places of folders get no file of this host, and write none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from imagegen.archive import Entry
from imagegen.engines.box import Box
from imagegen.errors import BuildError, WheelError
from imagegen.layers import Layer
from imagegen.oci import Image, ImageLayout
from imagegen.sdists import _only_wheel
from mirror.errors import DiskFullError
from tests.imagegen.base_layout import tar
from tests.imagegen.plans import artifact
from tests.wheels import make_wheel


def box(folder: Path, links: dict[str, str], boxes: Path | None = None, size: int = 0) -> Box:
    """Make a box of an image with these links, an empty /opt, and a file of this size."""
    layer = tar(
        {"opt/": None, "file": bytes(size)},
        {name: (tarfile.SYMTYPE, target) for name, target in links.items()},
    )
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    layout = ImageLayout(folder / "oci")
    layout.blobs.mkdir(parents=True)
    layout.blob(digest).write_bytes(layer)
    whole = Layer(digest=digest, diff_id=digest, size=len(layer))
    config = json.dumps({"config": {"Env": [], "User": "sandbox", "WorkingDir": "/"}}).encode()
    return Box(
        Image(manifest=b"{}", config=config, layers=(whole,)), layout, boxes or folder / "boxes", "owner"
    )


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


@pytest.mark.root
def test_a_full_disk_is_told_and_nothing_stays_on_it(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(boxes)], check=True)
    try:
        for size in (400 << 10, 2 << 20):  # there is no room for it twice, or at all
            with pytest.raises(DiskFullError), box(tmp_path / str(size), {}, boxes, size):
                pass
            assert list(boxes.iterdir()) == []
        with (
            box(tmp_path / "put", {}, boxes) as made,
            pytest.raises(DiskFullError),
        ):
            made.put([Entry(path="check.py", content=bytes(2 << 20))], "/opt", uid=0)
    finally:
        subprocess.run(["umount", str(boxes)], check=True)


def test_a_link_within_the_box_is_followed(tmp_path: Path) -> None:
    with box(tmp_path, {"tmp": "opt"}) as made:
        made.put([Entry(path="check.py", content=b"x")], "/tmp", uid=0)

        assert [path.parent.name for path in (tmp_path / "boxes").rglob("check.py")] == ["opt"]


def test_a_wheel_has_the_version_of_its_lock_however_that_is_written(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "out", "alpha", "2021.1.1")

    assert _only_wheel(artifact("alpha-2021.01.01.tar.gz", "a"), wheel.parent) == wheel
    with pytest.raises(WheelError, match=r"its build made alpha-2021\.1\.1"):
        _only_wheel(artifact("alpha-2021.01.02.tar.gz", "a"), wheel.parent)


def test_no_wheel_is_taken_out_of_a_folder_of_the_host(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "host", "alpha", "1.0")
    sdist = artifact("alpha-1.0.tar.gz", "a")
    assert _only_wheel(sdist, wheel.parent) == wheel
    (tmp_path / "out").symlink_to(wheel.parent)

    for folder in (tmp_path / "out", tmp_path / "gone"):
        with pytest.raises(WheelError, match="took away the folder"):
            _only_wheel(sdist, folder)
