"""apt's private root: what it is told may hold credentials."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from imagegen.apt import Source
from imagegen.aptroot import private_root

SECRET = "https://user:secret@archive.example/debian"


def test_what_may_hold_credentials_is_readable_by_nobody_else_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "chmod", lambda *_: None)  # what has to be set later comes too late
    before = os.umask(0)
    try:
        with private_root([Source(uris=(SECRET,), suites=("s",), components=("c",))], "amd64", "base"):
            (folder,) = tmp_path.iterdir()
            written = [path for path in folder.iterdir() if path.is_file() and path.stat().st_size]
            assert {path.name for path in written} == {"private.sources", "apt.conf"}
            assert SECRET in (folder / "private.sources").read_text()
            assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    finally:
        os.umask(before)
