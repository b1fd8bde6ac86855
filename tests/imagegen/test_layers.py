from __future__ import annotations

import os
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from imagegen.engines.oci import _threads
from imagegen.layers import Content, Layers


def content() -> Content:
    return Content(tar=[b"x" * 512], facts={"said": 1})


def test_a_recipe_is_known_once_its_layer_stands(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    assert not layers.knows(["a"])

    layers.get(["a"], "a comment", content)

    assert layers.knows(["a"])
    assert not layers.knows(["b"])


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b'{"layer": 1}', b"[" * 100_000, b'{"layer": {"digest": 1, "diff_id": "", "size": 1}}'],
)
def test_a_damaged_record_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    layers = Layers(tmp_path)
    layer, facts = layers.get(["a"], "a comment", content)
    (record,) = (tmp_path / "layers").iterdir()
    record.write_bytes(damage)

    assert layers.get(["a"], "a comment", content) == (layer, facts)
    assert layers.get(["a"], "a comment", pytest.fail) == (layer, facts)


def test_where_one_fails_what_waits_is_given_up() -> None:
    waiting: list[Future[None]] = []

    def fail() -> None:
        with _threads() as pool:
            waiting.extend(pool.submit(time.sleep, 0.05) for _ in range(4 * (os.cpu_count() or 1)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert waiting[-1].cancelled()
