from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.errors import LayerBudgetError
from imagegen.layerplan import FIXED, group
from mirror.snapshot import Stocked


def file(name: str, size: int, version: str = "1.0") -> Stocked:
    return Stocked(
        ecosystem="pypi", name=name, version=version, filename=f"{name}-{version}-py3-none-any.whl",
        sha256="a" * 64, size=size, url="",
    )  # fmt: skip


FILES = st.lists(
    st.builds(file, st.from_regex(r"[a-z]{1,12}", fullmatch=True), st.integers(1, 1 << 26)),
    unique_by=lambda found: found.name,
    max_size=60,
)


@given(FILES, st.integers(FIXED + 1, 120), st.randoms())
def test_every_file_is_in_one_layer_and_order_does_not_matter(files, budget, random) -> None:  # type: ignore[no-untyped-def]
    groups = group(files, budget, "dev")
    shuffled = random.sample(files, len(files))

    assert sorted(name.filename for files in groups for name in files) == sorted(f.filename for f in files)
    assert len(groups) <= budget - FIXED
    assert group(shuffled, budget, "dev") == groups


@given(FILES.filter(bool), st.integers(FIXED + 1, 120))
def test_a_bump_changes_one_layer(files, budget) -> None:  # type: ignore[no-untyped-def]
    changed = file(files[0].name, files[0].size, "2.0")

    before, after = group(files, budget, "dev"), group([changed, *files[1:]], budget, "dev")

    assert len(before) == len(after)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_big_ones_lie_alone_and_small_ones_together() -> None:
    files = [file("big", 50 << 20), *(file(f"small{n}", 1000) for n in range(100))]

    groups = group(files, 10, "dev")

    assert groups[0] == (files[0],)
    assert len(groups) == 4  # which is half of the room, for all that is small


def test_more_layers_leave_less_that_a_bump_drags_along() -> None:
    files = [file(f"medium{n:03}", (100 << 10) + n) for n in range(90)]

    dragged = [
        sum(sum(one.size for one in shared) - shared[0].size for shared in group(files, budget, "dev"))
        for budget in (40, 80, 120)
    ]

    assert dragged[0] > dragged[1] > dragged[2]
    assert sum(len(shared) == 1 for shared in group(files, 120, "dev")) > 58


def test_without_room() -> None:
    assert group([], FIXED, "dev") == ()
    with pytest.raises(LayerBudgetError, match="3 layers are too few"):
        group([file("alpha", 1)], FIXED, "dev")
