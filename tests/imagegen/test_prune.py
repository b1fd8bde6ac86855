"""`imagegen prune`: what no image needs goes, what one needs stays, and a build afterwards is as before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.imagegen.base_layout import BaseLayout, base_files, tar
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_base_images import HERE, built, project, ran
from tests.wheels import make_wheel

MORE = "compile = false\n"


@pytest.fixture
def made(tmp_path: Path) -> StockedProject:
    """A project that was built on an old base, and then on a new one."""
    layout = BaseLayout(tmp_path / "base")
    for number in (1, 2):
        files = {**base_files(tmp_path, HERE), "number": str(number).encode()}
        layout.name(str(number), layout.image([tar(files)], HERE))
    made = project(tmp_path / "p", "oci:../base:1", make_wheel(tmp_path / "up", "alpha", "1.0"), more=MORE)
    built(made)
    text = (made.folder / "lockstock.toml").read_text()
    (made.folder / "lockstock.toml").write_text(text.replace("base:1", "base:2"))
    built(made)
    for path in made.layout.root.rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    return made


def pruned(made: StockedProject, *arguments: str) -> Any:
    import json

    ended = ran(made, "prune", "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def files(made: StockedProject) -> set[str]:
    root = made.layout.root
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def test_what_kept_images_stand_on_stays(made: StockedProject) -> None:
    before = files(made)

    assert pruned(made)["freed"] == []

    assert files(made) - {"oci/.lock", "bases/.lock"} == before - {"oci/.lock", "bases/.lock"}


def test_images_that_are_not_configured_go_with_all_they_needed(made: StockedProject) -> None:
    config = made.folder / "lockstock.toml"
    config.write_text(config.read_text().replace("[images.dev]", "[images.other]"))
    before = files(made)

    told = pruned(made, "--dry-run")

    assert files(made) - {"bases/.lock"} == before - {"bases/.lock"}
    done = pruned(made)
    assert (done["freed"], done["size"]) == (told["freed"], told["size"])
    assert done["size"] > 0
    left = {path for path in files(made) if path.startswith(("oci/blobs", "layers", "bases/images/i"))}
    assert left == set()
    assert pruned(made)["freed"] == []
    config.write_text(config.read_text().replace("[images.other]", "[images.dev]"))
    assert built(made)["changed"] is True


def test_a_pinned_base_stays_without_any_image(made: StockedProject) -> None:
    assert ran(made, "lock-base").returncode == 0
    for name in ("oci/index.json",):
        (made.layout.root / name).unlink()

    done = pruned(made)

    kept = [path for path in files(made) if path.startswith("bases/images/image-")]
    assert len(kept) == 1
    assert [one["path"] for one in done["freed"] if one["path"].startswith("bases/images/image-")]
    assert built(made)["changed"] is True


def test_a_base_that_was_just_fetched_stays(made: StockedProject) -> None:
    (made.layout.root / "oci/index.json").unlink()
    for path in (made.layout.root / "bases").rglob("*"):
        os.utime(path)

    assert not [one for one in pruned(made)["freed"] if one["path"].startswith("bases/")]


def test_programs_and_tarballs_of_bases_that_are_gone(made: StockedProject) -> None:
    roots, folder = made.layout.root / "roots", made.layout.root / "bases"
    (roots / f"{'a' * 64}-2" / "usr").mkdir(parents=True)
    (roots / f"{'a' * 64}-2" / "usr" / "program").write_text("x" * 100)
    (folder / f"buster-0123456789ab-{'a' * 64}.tar").write_text("x" * 1000)
    debs = made.layout.root / "debs" / "sha256" / "aa" / ("a" * 62)
    debs.parent.mkdir(parents=True)
    debs.write_text("x" * 10)

    done = pruned(made)

    assert {one["path"].partition("/")[0]: one["size"] for one in done["freed"]} == {
        "roots": 100,
        "bases": 1000,
        "debs": 10,
    }
    assert not (roots / f"{'a' * 64}-2").exists()


def test_it_says_what_it_does(made: StockedProject) -> None:
    config = made.folder / "lockstock.toml"
    config.write_text(config.read_text().replace("[images.dev]", "[images.other]"))

    ended = ran(made, "prune", "--dry-run")

    assert "would free" in ended.stderr
    assert "bases/images/image-" in ended.stdout
