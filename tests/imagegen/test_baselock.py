from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagegen.baselock import read_pins, write_pins
from imagegen.errors import BaseError

DIGEST = f"sha256:{'a' * 64}"
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=30)


def test_no_file_pins_nothing(tmp_path: Path) -> None:
    assert read_pins(tmp_path) == {}


def test_it_is_sorted(tmp_path: Path) -> None:
    write_pins(tmp_path, {"registry:b.example/x:1": DIGEST, "oci:../a:1": DIGEST})

    lines = (tmp_path / "bases.lock").read_text().splitlines()
    assert lines[-2:] == [f'"oci:../a:1" = "{DIGEST}"', f'"registry:b.example/x:1" = "{DIGEST}"']


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.just(DIGEST)))
def test_what_is_written_is_read(tmp_path: Path, pins: dict[str, str]) -> None:
    write_pins(tmp_path, pins)

    assert read_pins(tmp_path) == pins


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 2\n", "version: is not 1"),
        ("version = 1\n[base]\nx = 'sha256:abc'\n", "which is no digest"),
        ("version = 1\n[base]\nx = 1\n", "must be a string"),
        ("version = 1\nmore = 1\n", "unknown key"),
        ("version = ", "not valid TOML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bases.lock").write_text(text)

    with pytest.raises(BaseError, match=reason):
        read_pins(tmp_path)
