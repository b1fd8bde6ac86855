"""The programs of a base are unpacked whole, and nothing in them leads a box out of them."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagegen.engines.root import BaseRoot
from imagegen.errors import BuildError
from imagegen.live import Silent
from mirror.errors import DiskFullError
from tests.imagegen.base_layout import tar

PROGRAM = "/usr/bin/tool"
FILES: dict[str, bytes | None] = {"./usr/bin/tool": b"x", "./etc/passwd": b"", "./var/big": b"y"}


def base_root(
    folder: Path, files: Mapping[str, bytes | None], links: Mapping[str, tuple[bytes, str]] | None = None
) -> BaseRoot:
    (folder / "base.tar").write_bytes(tar(files, links))
    (folder / "roots").mkdir(exist_ok=True)
    return BaseRoot(folder / "base.tar", "sha256:" + "0" * 64, folder / "roots", Silent())


def left(folder: Path) -> list[str]:
    return [path.name for path in (folder / "roots").iterdir() if path.is_dir()]


def test_parts_that_the_base_lacks_are_not_asked_for(tmp_path: Path) -> None:
    root = base_root(tmp_path, FILES, {"./bin": (tarfile.SYMTYPE, "usr/bin")})

    root.prepare(PROGRAM)

    assert left(tmp_path) == [root.path.name]
    assert sorted(path.name for path in root.path.iterdir()) == ["bin", "etc", "usr"]


def test_what_a_box_is_told_holds_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = base_root(Path(), FILES)
    root.prepare(PROGRAM)
    monkeypatch.chdir("/")

    words = root.mounts()

    assert (Path(words[words.index("/usr") - 1]) / "bin" / "tool").read_bytes() == b"x"


@pytest.mark.parametrize("part", ["etc", "usr"])
def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path, part: str) -> None:
    host = tmp_path / "host"
    (host / "bin").mkdir(parents=True)
    (host / "bin" / "tool").write_text("of the host")
    files = {name: data for name, data in FILES.items() if not name.startswith(f"./{part}/")}
    root = base_root(tmp_path, files, {f"./{part}": (tarfile.SYMTYPE, str(host))})

    with pytest.raises(BuildError, match=f"no folder /{part}, or a link in its place"):
        root.prepare(PROGRAM)
    assert left(tmp_path) == []


def test_a_base_that_is_cut_off_is_not_kept(tmp_path: Path) -> None:
    root = base_root(tmp_path, {**FILES, "./usr/lib/large": b"x" * 100_000})
    whole = (tmp_path / "base.tar").read_bytes()
    (tmp_path / "base.tar").write_bytes(whole[:-50_000])

    with pytest.raises(BuildError, match="cannot be unpacked"):
        root.prepare(PROGRAM)
    assert left(tmp_path) == []


def test_what_tar_cannot_unpack_is_not_kept(tmp_path: Path) -> None:
    """There is a file where a folder is needed."""
    root = base_root(tmp_path, {**FILES, "./usr/lib": b"", "./usr/lib/module": b"x"})

    with pytest.raises(BuildError, match="cannot be unpacked"):
        root.prepare(PROGRAM)
    assert left(tmp_path) == []


@pytest.mark.root
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    root = base_root(tmp_path, {**FILES, "./usr/lib/large": b"x" * (2 << 20)})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "roots")], check=True)
    try:
        with pytest.raises(DiskFullError):
            root.prepare(PROGRAM)
        assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "roots")], check=True)
