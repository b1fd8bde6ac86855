"""Licences as packages state them, and what dpkg lists."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from imagegen.dpkg import DebianPackage, installed
from imagegen.licences import Licence, known_licences, licences_of, of_metadata
from tests.imagegen.plans import artifact
from tests.imagegen.stocked import stocked
from tests.wheels import make_wheel

MIT = "License :: OSI Approved :: MIT License"


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"license_expression": "mit or apache-2.0", "license": "BSD"}, [("MIT OR Apache-2.0", True)]),
        ({"license": "BSD-3-Clause", "classifiers": [MIT]}, [("BSD-3-Clause", True)]),
        ({"license": "BSD", "classifiers": [MIT]}, [("BSD", False)]),
        ({"license": "x" * 5000, "classifiers": [MIT]}, [("MIT License", False)]),
        ({"license": "Copyright\nall of it", "classifiers": [MIT, MIT]}, [("MIT License", False)]),
        ({"classifiers": ["License :: OSI Approved", "Programming Language :: Python"]}, []),
        ({"classifiers": [MIT, "License :: Freeware"]}, [("Freeware", False), ("MIT License", False)]),
        ({"license": "evil\x1b[2J"}, []),
        ({"license": " "}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_of_python(metadata: dict[str, object], wanted: list[tuple[str, bool]]) -> None:
    assert [(one.text, one.is_expression) for one in of_metadata(metadata)] == wanted


@pytest.mark.parametrize(
    ("manifest", "wanted"),
    [
        ({"license": "MIT"}, (Licence(text="MIT", is_expression=True),)),
        ({"license": {"type": "ISC", "url": "x"}}, (Licence(text="ISC", is_expression=True),)),
        ({"licenses": [{"type": "MIT"}, {"type": "Custom"}]},
         (Licence(text="MIT", is_expression=True), Licence(text="Custom"))),
        ({"license": 7}, ()),
        ({}, ()),
    ],
)  # fmt: skip
def test_of_npm(tmp_path: Path, manifest: dict[str, object], wanted: tuple[Licence, ...]) -> None:
    buffer, data = io.BytesIO(), json.dumps({"name": "left-pad", "version": "1.0", **manifest}).encode()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (tmp_path / "file").write_bytes(gzip.compress(buffer.getvalue()))

    assert licences_of(tmp_path / "file", artifact("left-pad-1.0.tgz", "a", "npm")) == wanted


@pytest.mark.parametrize(
    ("filename", "ecosystem"), [("a-1-py3-none-any.whl", "pypi"), ("a-1.tar.gz", "pypi"), ("a-1.tgz", "npm")]
)
def test_of_noise(tmp_path: Path, filename: str, ecosystem: str) -> None:
    (tmp_path / "file").write_bytes(b"noise")

    assert licences_of(tmp_path / "file", artifact(filename, "a", ecosystem)) == ()


def test_what_was_read_once_is_kept(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "alpha", "1.0", headers=("License-Expression: MIT",))
    file, cache = stocked(wheel), tmp_path / "cache" / "licences.json"
    wanted = {file.sha256: (Licence(text="MIT", is_expression=True),)}
    assert known_licences([file], lambda _: tmp_path / "nosuch", cache) == {}
    assert known_licences([file], lambda _: wheel, cache) == wanted
    wheel.unlink()

    assert known_licences([file], lambda _: wheel, cache) == wanted

    for noise in ("{", "[]", '{"a": [1]}', '{"a": 1}'):
        cache.write_text(noise)
        assert known_licences([file], lambda _: wheel, cache) == {}


def test_dpkg() -> None:
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u9\n"
        "Description: library\n goes on\n\nPackage: gone\nStatus: deinstall ok config-files\n"
        "Architecture: all\nVersion: 1\n\nnoise\n\nPackage: adduser\nStatus: install ok installed\n"
        "Architecture: all\nVersion: 1:3.134\n"
    )

    assert list(installed(status)) == [
        DebianPackage(name="libc6", version="2.36-9+deb12u9", architecture="amd64"),
        DebianPackage(name="adduser", version="1:3.134", architecture="all"),
    ]
    assert list(installed("")) == []
