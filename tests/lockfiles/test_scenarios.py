"""Locks as the real tools wrote them: what is selected for targets, extras and groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lockfiles.closure import required
from lockfiles.formats import FORMATS, detect, parse
from lockfiles.model import Lock
from lockfiles.select import select
from lockfiles.target import Target

LOCKS = Path(__file__).parent.parent / "scenarios" / "locks"
CASES = sorted(folder.name for folder in LOCKS.iterdir())


def lock_file(case: str) -> Path:
    beside = ("expected.json", "pyproject.toml")
    return next(f for f in sorted((LOCKS / case).iterdir()) if f.name not in beside)


def read(case: str) -> Lock:
    file = lock_file(case)
    return parse(file.name, file.read_text(), lambda path: (file.parent / path).read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_ends_of_lines_do_not_matter(case: str) -> None:
    file = lock_file(case)
    there = {path.name: path.read_text().replace("\n", "\r\n") for path in file.parent.iterdir()}
    assert parse(file.name, there[file.name], there.__getitem__) == read(case)


def selected(lock: Lock, choice: Mapping[str, Any]) -> Sequence[str]:
    """Name the files that are chosen, or versions where the index names the files, then the sources."""
    target, extras, groups = Target.parse(choice["target"]), choice.get("extras", ()), choice.get("groups")
    packages = required(lock, target, extras, groups)
    if any(package.digests or not all(file.digests for file in package.artifacts) for package in packages):
        return [package.label for package in packages]
    selection = select(lock, target, extras, groups)
    names = [choice.artifact.filename for choice in selection.choices]
    return [
        *names,
        *(f"{package.name} from {type(package.source).__name__}" for package in selection.sources),
    ]


@pytest.mark.parametrize("case", CASES)
def test_selection(case: str) -> None:
    lock = read(case)
    for choice in json.loads((LOCKS / case / "expected.json").read_text()):
        assert selected(lock, choice) == choice["selected"], choice


@pytest.mark.parametrize("case", CASES)
def test_known_by_content_too(case: str) -> None:
    file = lock_file(case)
    assert detect("lock", file.read_text()) == detect(file.name, file.read_text())


def test_every_format_has_a_scenario() -> None:
    assert {read(case).format for case in CASES} == FORMATS.keys() - {"conda-lock"}
