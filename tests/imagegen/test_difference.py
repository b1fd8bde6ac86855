"""Two images side by side."""

from __future__ import annotations

from imagegen.difference import Change, difference
from imagegen.inspection import Inspection, Item, StackedLayer


def layer(letter: str, size: int = 100) -> StackedLayer:
    return StackedLayer(digest=f"sha256:{letter * 64}", size=size, comment=letter)


def item(name: str, version: str, sha256: str = "", layer: str = "a", kind: str = "pypi") -> Item:
    return Item(
        name=name, version=version, purl=f"pkg:{kind}/{name}@{version}", use="installed", layer=layer,
        file=f"{name}.whl", sha256=sha256, locks=("app",), licences=(),
    )  # fmt: skip


def image(digest: str, layers: tuple[StackedLayer, ...], packages: tuple[Item, ...] | None) -> Inspection:
    return Inspection(
        reference=digest, digest=digest, id=digest, platform="linux/amd64",
        size=sum(one.size for one in layers), overhead=7, base="", base_digest="", target="", locks={},
        snapshot="", lockstock="", layers=layers, packages=packages, evidence=(),
    )  # fmt: skip


A, B, C = layer("a", 1000), layer("b", 20), layer("c", 30)


def test_packages_that_came_went_and_changed() -> None:
    before = image(
        "1", (A, B), (item("kept", "1"), item("gone", "1"), item("bumped", "1"), item("rebuilt", "1"))
    )
    after = image(
        "2",
        (A, C),
        (
            item("kept", "1", layer="c"),
            item("fresh", "1"),
            item("bumped", "2"),
            item("rebuilt", "1", "f" * 64),
        ),
    )

    assert difference(before, after).changes == (
        Change(package="pypi:bumped", before=("1",), after=("2",)),
        Change(package="pypi:fresh", before=(), after=("1",)),
        Change(package="pypi:gone", before=("1",), after=()),
        Change(package="pypi:rebuilt", before=("1",), after=("1",)),
    )


def test_ecosystems_are_apart() -> None:
    before, after = (image(kind, (A,), (item("same", "1", kind=kind),)) for kind in ("npm", "deb"))

    assert [one.package for one in difference(before, after).changes or ()] == ["deb:same", "npm:same"]


def test_only_what_is_new_is_fetched() -> None:
    found = difference(image("1", (A, B), ()), image("2", (A, C, C), ()))

    assert (found.removed, found.added, found.shared) == ((B,), (C,), 1)
    assert (found.size_before, found.size_after) == (1020, 1060)
    assert found.fetch == 30 + 7


def test_the_same_image() -> None:
    one = image("1", (A, B), (item("kept", "1"),))

    found = difference(one, one)

    assert (found.changes, found.added, found.removed, found.fetch) == ((), (), (), 0)


def test_an_image_that_does_not_say_what_is_in_it() -> None:
    assert difference(image("1", (A,), None), image("2", (A,), ())).changes is None
