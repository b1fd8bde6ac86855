from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imagegen.archive import Entry
from imagegen.context import render, wheels, write_context
from imagegen.errors import BuildError, NotStockedError
from imagegen.plan import ImagePlan, make_plan
from imagegen.spec import DockerBase, ImageSpec
from tests.imagegen.plans import ALPHA, BASE, SNAPSHOT, SPEC, TARGET, UV, artifact, snapshot

SCENARIOS = Path(__file__).parent.parent / "scenarios"
BARE = ImageSpec(name="bare", base=DockerBase(reference="registry.example/python:3.11"), locks=("app",))
PLANS = {
    "image-context": make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="t"),
    "image-context-no-wheels": make_plan(replace(SPEC, wheels=False), SNAPSHOT, TARGET, BASE, templates="t"),
    "image-context-bare": make_plan(BARE, snapshot(app=(ALPHA,)), TARGET, BASE, templates="t"),
}


@pytest.mark.parametrize("scenario", PLANS)
def test_renders_what_the_scenario_shows(scenario: str) -> None:
    shown = SCENARIOS / scenario / "out"
    expected = {f.relative_to(shown).as_posix(): f.read_text() for f in shown.rglob("*") if f.is_file()}

    rendered = {e.path: e.content for e in render(PLANS[scenario]) if "/lockstock/lib/" not in e.path}

    assert {path: content.decode() for path, content in rendered.items()} == expected  # type: ignore[union-attr]


def test_uv_is_the_stocked_tool_and_not_one_that_a_lock_names() -> None:
    locked = artifact("uv-0.10.0-py3-none-manylinux_2_17_x86_64.whl", "f")
    plan = make_plan(SPEC, snapshot(app=(ALPHA, locked), __tools=(UV,)), TARGET, BASE, templates="t")

    (dockerfile,) = [entry.content for entry in render(plan) if entry.path == "Dockerfile"]

    assert plan.uv == UV
    assert f'"--uv", "{UV.filename}"]'.encode() in dockerfile  # type: ignore[operator]  # these are bytes


def test_programs_can_be_run() -> None:
    modes = {entry.path: entry.mode for entry in render(PLANS["image-context"])}

    assert [path for path, mode in modes.items() if mode == 0o755] == [
        "rootfs/usr/local/bin/uv",
        "rootfs/usr/local/bin/uvx",
    ]


def test_wheels_come_from_the_store(tmp_path: Path) -> None:
    plan = PLANS["image-context-bare"]
    (tmp_path / ALPHA.sha256).write_bytes(b"x" * ALPHA.size)

    assert wheels(plan, tmp_path.joinpath) == (
        Entry(path=f"wheels/{ALPHA.filename}", content=tmp_path / ALPHA.sha256),
    )


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_wheel_that_is_gone_or_not_whole(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / ALPHA.sha256).write_bytes(content)

    with pytest.raises(NotStockedError) as caught:
        wheels(PLANS["image-context-bare"], tmp_path.joinpath)

    assert caught.value.where == ALPHA.filename


def test_a_context_replaces_an_earlier_one(tmp_path: Path) -> None:
    plan: ImagePlan = PLANS["image-context"]
    write_context((*render(plan), Entry(path="old", content=b"")), tmp_path / "out")
    write_context(render(plan), tmp_path / "out")

    assert not (tmp_path / "out" / "old").exists()
    assert (tmp_path / "out" / "Dockerfile").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("written", [".", "../link"])
def test_a_context_in_this_folder_or_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    for _ in range(2):
        monkeypatch.chdir(out)
        write_context(render(PLANS["image-context"]), Path(written))

    assert (out / "Dockerfile").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_a_context_stays(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    mine = out / "mine" if kind == "folder" else out
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")

    with pytest.raises(BuildError, match="holds no rendered context"):
        write_context(render(PLANS["image-context"]), out)

    assert mine.read_text() == "mine"
