"""Wheels as archive entries: where things go, and which wheels are refused."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import stat
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from imagegen.archive import Deflated, Entry
from imagegen.errors import WheelError
from imagegen.wheels import Venv, program_entries, unpack
from lockfiles.target import Target
from tests.wheels import make_wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TARGET = Target("3.11")
VENV = Venv(root="/opt/lockstock/venv", python="3.11")
SITE = "opt/lockstock/venv/lib/python3.11/site-packages"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def unpacked(path: Path) -> dict[str, Entry]:
    return {entry.path: entry for entry in unpack(path, path.name, VENV, TARGET).entries}


def raw_wheel(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    record: str | None = None,
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel whose names nobody checks."""
    info = "evil-1.0.dist-info"
    content = {**files, f"{info}/METADATA": b"Name: evil\nVersion: 1.0\n", f"{info}/WHEEL": WHEEL.encode()}
    lines = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in content.items()]
    content[f"{info}/RECORD"] = (record or "".join([*lines, f"{info}/RECORD,,\n"])).encode()
    path = folder / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        for name, goal in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, goal)
    return path


def _digest(data: bytes) -> str:
    return urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()


class TestPlaces:
    def test_modules_metadata_and_the_name_of_the_installer(self, tmp_path: Path) -> None:
        found = unpacked(make_wheel(tmp_path, "alpha", "1.0"))

        assert found[f"{SITE}/alpha.py"].content == b"__version__ = '1.0'\n"
        assert found[f"{SITE}/alpha-1.0.dist-info/INSTALLER"].content == b"lockstock\n"
        assert list(found) == sorted(found)
        assert {entry.mode for entry in found.values()} == {0o644}

    def test_entry_points_are_run_by_the_interpreter_of_the_image(self, tmp_path: Path) -> None:
        found = unpacked(make_wheel(tmp_path, "alpha", "1.0", scripts={"go": "alpha:main.run"}))

        script = found["opt/lockstock/venv/bin/go"]
        assert bytes(script.content).startswith(b"#!/opt/lockstock/venv/bin/python3\n")  # type: ignore[arg-type]
        assert b"from alpha import main" in bytes(script.content)  # type: ignore[arg-type]
        assert script.mode == 0o755

    def test_scripts_data_and_headers_lie_where_their_scheme_says(self, tmp_path: Path) -> None:
        files = {
            "alpha-1.0.data/scripts/tool": "#!python\nprint()\n",
            "alpha-1.0.data/scripts/other": "#!/bin/sh\n",
            "alpha-1.0.data/data/share/alpha.txt": "x",
            "alpha-1.0.data/headers/alpha.h": "x",
            "alpha-1.0.data/platlib/native.py": "x",
        }
        found = unpacked(make_wheel(tmp_path, "alpha", "1.0", files=files))

        venv = "opt/lockstock/venv"
        assert found[f"{venv}/bin/tool"].content == b"#!/opt/lockstock/venv/bin/python3\nprint()\n"
        assert found[f"{venv}/bin/other"].content == b"#!/bin/sh\n"
        assert found[f"{venv}/bin/other"].mode == 0o755
        assert f"{venv}/share/alpha.txt" in found
        assert f"{venv}/include/site/python3.11/alpha/alpha.h" in found
        assert f"{SITE}/native.py" in found

    def test_record_leads_to_every_file(self, tmp_path: Path) -> None:
        files = {"alpha.py": "", "alpha-1.0.data/data/share/alpha.txt": "x"}
        found = unpacked(make_wheel(tmp_path, "alpha", "1.0", files=files, scripts={"go": "alpha:main"}))

        record = bytes(found[f"{SITE}/alpha-1.0.dist-info/RECORD"].content).decode()  # type: ignore[arg-type]
        rows = list(csv.reader(io.StringIO(record)))
        listed = {_normal(f"{SITE}/{path}"): (digest, size) for path, digest, size in rows}
        assert listed.keys() == found.keys()
        for path, (digest, size) in listed.items():
            content = bytes(found[path].content)  # type: ignore[arg-type]
            if not path.endswith("/RECORD"):
                assert digest == f"sha256={_digest(content)}"
                assert int(size) == len(content)

    def test_compiled_files_are_left_out(self, tmp_path: Path) -> None:
        files = {"alpha.py": "", "__pycache__/alpha.cpython-311.pyc": b"evil"}
        found = unpacked(make_wheel(tmp_path, "alpha", "1.0", files=files))

        assert not [path for path in found if "__pycache__" in path]
        record = bytes(found[f"{SITE}/alpha-1.0.dist-info/RECORD"].content)  # type: ignore[arg-type]
        assert b"__pycache__" not in record

    def test_long_files_bring_their_deflate_streams(self, tmp_path: Path) -> None:
        native = sha256(b"native").hexdigest().encode() + random.Random(1).randbytes(50_000).hex().encode()
        script = b"#!python\n" + native
        files = {
            "evil.so": native,
            "evil-1.0.data/scripts/native": native,
            "evil-1.0.data/scripts/tool": script,
        }
        path = raw_wheel(tmp_path, files)
        found = unpacked(path)

        for place in (f"{SITE}/evil.so", "opt/lockstock/venv/bin/native"):
            content = found[place].content
            assert isinstance(content, Deflated)
            assert content.plain == gzip.decompress(content.member) == native
            assert content.member[10:-8] in path.read_bytes()
        # A script gets another first line, which its stream does not have.
        fixed = b"#!/opt/lockstock/venv/bin/python3\n" + native
        assert found["opt/lockstock/venv/bin/tool"].content == fixed
        (program,) = program_entries(path, path.name, "tools", "native")
        assert isinstance(program.content, Deflated)

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("wrong", ["digest", "size"])
    def test_every_file_is_as_long_and_as_record_says(
        self, tmp_path: Path, algorithm: str, wrong: str
    ) -> None:
        whole = raw_wheel(tmp_path, {"evil.py": b"x = 1\n"})
        with zipfile.ZipFile(whole) as archive:
            lines = archive.read("evil-1.0.dist-info/RECORD").decode().splitlines()
        of = b"x = 1\n" if wrong == "size" else b"x = 2\n"
        digest = urlsafe_b64encode(hashlib.new(algorithm, of).digest()).rstrip(b"=").decode()
        lines = [line for line in lines if not line.startswith("evil.py,")]
        line = f"evil.py,{algorithm}={digest},{7 if wrong == 'size' else 6}"
        path = raw_wheel(tmp_path, {"evil.py": b"x = 1\n"}, record="\n".join([line, *lines]) + "\n")

        with pytest.raises(WheelError, match=r"evil\.py is not what RECORD says"):
            unpacked(path)

    def test_what_pip_installs_from_it_is_the_same(self, tmp_path: Path) -> None:
        files = {"alpha/__init__.py": "def main(): pass\n", "alpha-1.0.data/data/share/alpha.txt": "x"}
        wheel = make_wheel(tmp_path, "alpha", "1.0", files=files, scripts={"go": "alpha:main"})
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "-q"]
        subprocess.run([*pip, "--no-index", "--no-deps", "--no-compile", str(wheel)], check=True)
        venv = Venv(root=str(tmp_path / "venv"), python=PYTHON)

        entries = unpack(wheel, wheel.name, venv, Target(PYTHON)).entries

        ours = {f"/{entry.path}": entry for entry in entries}
        installed = {*(tmp_path / "venv").rglob("alpha*/*"), *(tmp_path / "venv/share").rglob("*")}
        theirs = {str(path) for path in installed if path.is_file()} | {f"{venv.root}/bin/go"}
        assert theirs - ours.keys() == {
            path for path in theirs if path.endswith(("/REQUESTED", "/direct_url.json"))
        }
        assert ours.keys() <= theirs
        for path in ours.keys() - {f"{venv.root}/bin/go"}:
            if not path.endswith(("RECORD", "INSTALLER")):
                assert Path(path).read_bytes() == ours[path].content


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


class TestHostile:
    @pytest.mark.parametrize(
        "name",
        ["../evil.py", "/etc/evil.py", "a/../../evil.py", "a\\..\\evil.py", "a/./b.py", "a//b.py", "a\n.py",
         "evil-1.0.data/scripts/../../../evil", "evil-1.0.data/scripts//etc/passwd"],
    )  # fmt: skip
    def test_a_path_that_leads_elsewhere(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(WheelError, match=r"leads out|control characters"):
            unpacked(raw_wheel(tmp_path, {name: b"x"}))

    def test_a_symbolic_link(self, tmp_path: Path) -> None:
        with pytest.raises(WheelError, match="a link or a device"):
            unpacked(raw_wheel(tmp_path, {}, links={"evil": "/etc/passwd"}))

    @pytest.mark.parametrize(
        "line",
        [
            f"evil.py,sha256={'A' * 43},1\n",
            f"evil.py,sha256={_digest(b'x')},2\n",
            "evil.py,md5=nU5F_MFb2VX5Px_NW8Fvkw,1\n",
            "evil.py,,\n",
            "",
            "evil.py,nonsense,1\n",
            '"evil.py,',
        ],
    )
    def test_a_wrong_record(self, tmp_path: Path, line: str) -> None:
        info = "evil-1.0.dist-info"
        metadata = b"Name: evil\nVersion: 1.0\n"
        rest = (
            f"{info}/METADATA,sha256={_digest(metadata)},{len(metadata)}\n"
            f"{info}/WHEEL,sha256={_digest(WHEEL.encode())},{len(WHEEL)}\n{info}/RECORD,,\n"
        )
        with pytest.raises(WheelError, match=r"RECORD|not a valid wheel"):
            unpacked(raw_wheel(tmp_path, {"evil.py": b"x"}, record=rest + line))

    def test_a_bomb(self, tmp_path: Path) -> None:
        path = raw_wheel(tmp_path, {"zeros": bytes(400 << 20)})

        with pytest.raises(WheelError, match="unfolds to far more"):
            unpacked(path)

    def test_a_bomb_that_lies_about_its_size(self, tmp_path: Path) -> None:
        path = raw_wheel(tmp_path, {"zeros": bytes(1 << 20)})
        path.write_bytes(
            path.read_bytes().replace((1 << 20).to_bytes(4, "little"), (5).to_bytes(4, "little"))
        )

        with pytest.raises(WheelError, match=r"not a|RECORD"):
            unpacked(path)

    def test_another_abi(self, tmp_path: Path) -> None:
        for tag in ("cp312-cp312-manylinux_2_17_x86_64", "cp311-cp311-win_amd64", "py2-none-any"):
            with pytest.raises(WheelError, match="not made for "):
                unpacked(make_wheel(tmp_path, "alpha", "1.0", tag=tag))

    def test_a_scheme_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(WheelError, match="not a valid wheel"):
            unpacked(raw_wheel(tmp_path, {"evil-1.0.data/nowhere/x": b"x"}))

    def test_two_files_for_one_place(self, tmp_path: Path) -> None:
        with pytest.raises(WheelError, match="two of its files"):
            unpacked(raw_wheel(tmp_path, {"x.py": b"1", "evil-1.0.data/purelib/x.py": b"2"}))

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
    def test_no_zip_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "evil-1.0-py3-none-any.whl"
        path.write_bytes(content)

        with pytest.raises(WheelError, match="not a readable zip file"):
            unpacked(path)

    def test_a_script_with_a_path_as_its_name(self, tmp_path: Path) -> None:
        wheel = make_wheel(tmp_path, "alpha", "1.0", scripts={"../../etc/profile.d/x": "alpha:main"})

        with pytest.raises(WheelError, match="not a valid wheel"):
            unpacked(wheel)


ODD = {
    "no method that is known": {10: 99},
    "LZMA that is none": {10: 14},
    "bzip2 that is none": {10: 12},
    "a password": {8: 1},
    "longer than the file": {20: 1_000_000},
    "beyond the file": {42: 1_000_000},
}


@pytest.mark.parametrize("fields", ODD.values(), ids=ODD.keys())
def test_members_that_cannot_be_read(tmp_path: Path, fields: dict[int, int]) -> None:
    wheel = make_wheel(tmp_path, "uv", "1.0", files={"uv-1.0.data/scripts/uv": "x" * 50_000})
    content = bytearray(wheel.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"uv-1.0.data/scripts/uv"))
    start = int.from_bytes(content[entry + 42 : entry + 46], "little")
    for place, value in fields.items():
        size = 2 if place < 20 else 4
        content[entry + place : entry + place + size] = value.to_bytes(size, "little")
        if place < 20:
            content[start + place - 2 : start + place - 2 + size] = value.to_bytes(size, "little")
    wheel.write_bytes(content)

    with pytest.raises(WheelError, match="not a readable wheel"):
        program_entries(wheel, wheel.name, "opt/tools", "uv")
    with pytest.raises(WheelError, match=r"not a (readable zip file|valid wheel)"):
        unpacked(wheel)


def test_programs_of_a_wheel(tmp_path: Path) -> None:
    files = {"uv-1.0.data/scripts/uv": "1", "uv-1.0.data/scripts/uvx": "2", "uv-1.0.data/scripts/b": "3"}
    wheel = make_wheel(tmp_path, "uv", "1.0", files=files)

    found = program_entries(wheel, wheel.name, "opt/tools", "uv")

    assert [(entry.path, entry.content, entry.mode) for entry in found] == [
        ("opt/tools/uv", b"1", 0o755),
        ("opt/tools/uvx", b"2", 0o755),
    ]
