"""Whatever a lock-file holds, reading it ends soon, in a lock or in an error for a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from time import perf_counter
from typing import Any

import pytest
import tomli
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lockfiles.errors import LockError, LockstockError
from lockfiles.export import export_requirements
from lockfiles.formats import FORMATS, detect, parse
from lockfiles.rewrite import rewrite
from lockfiles.select import select
from lockfiles.target import Target
from tests.lockfiles.test_scenarios import CASES, lock_file

TARGETS = (Target("3.11"), Target("3.12.1", "aarch64", "musl", "1.2"))
TEXTS = {case: lock_file(case).read_text() for case in CASES}
PROJECTS = {
    case: file.read_text() for case in CASES if (file := lock_file(case).with_name("pyproject.toml")).exists()
}
FORMATS_OF = {case: detect(lock_file(case).name, text) for case, text in TEXTS.items()}
LOADERS: dict[str, Callable[[str], Any]] = {
    "Pipfile.lock": json.loads,
    "package-lock.json": json.loads,
    "pnpm-lock.yaml": yaml.safe_load,
    "yarn.lock": yaml.safe_load,
    "bun.lock": lambda text: json.loads(re.sub(r",(?=\s*[}\]])", "", text)),
}
TOKENS = st.sampled_from([
    "[", "]", "{", "}", "=", "\n", '"', "'", ",", "#", "\\", "\0", "\r", "@", "../", "==", ";", "[[package]]",
    "name", "1" * 5000, "(" * 300, "\N{SNOWMAN}", "\ud800", "--hash=", "-r ", "-e ", "true", "marker = ",
])  # fmt: skip
VALUES = st.sampled_from([
    0, -1, 10**30, 1.5, True, "", "x", "..", "/", "a/b", "http://[", "https://h/%2e%2e", "git+x", "1" * 5000,
    "(" * 500, "extra == 'x'", "sys_platform ~= 'linux'", "python_version < 'x'", "'x' in extras", "\0", "é",
    "sha256:", "*", [], {}, [[]], [{}], [1], ["x"], ["x", 1], {"x": 1}, {"name": "x"},
])  # fmt: skip
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def use(name: str, text: str, read: Callable[[str], str] | None = None) -> None:
    """Do all that is done with a lock; only errors for people may come of it."""
    with suppress(LockstockError):
        lock = parse(name, text, read)
        for target in TARGETS:
            for extras, groups in (((), None), (lock.extras, lock.groups)):
                with suppress(LockstockError):
                    export_requirements(select(lock, target, extras, groups))
        rewrite(name, text, lambda artifact: f"https://mirror.example/{artifact.filename}")


@pytest.mark.parametrize("case", CASES)
@quick
@given(data=st.data())
def test_mutated_text(case: str, data: st.DataObject) -> None:
    text = TEXTS[case]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 0, 1, 5, 80]))
        text = text[:start] + data.draw(TOKENS) + text[start + length :]
    use(lock_file(case).name, text, {"pyproject.toml": PROJECTS.get(case, "")}.__getitem__)


@pytest.mark.parametrize(
    "case", [case for case in CASES if FORMATS_OF[case] != "requirements.txt" and case != "yarn-1"]
)
@quick
@given(data=st.data())
def test_mutated_values(case: str, data: st.DataObject) -> None:
    file = lock_file(case)
    load = LOADERS.get(FORMATS_OF[case], tomli.loads)
    tree = load(TEXTS[case])
    mutate(tree, data)
    text = (
        json.dumps(tree)
        if load is not tomli.loads
        else "".join(f"{key(k)} = {toml(v)}\n" for k, v in tree.items())
    )
    use(file.name, text, {"pyproject.toml": PROJECTS.get(case, "")}.__getitem__)


@pytest.mark.parametrize("case", sorted(PROJECTS))
@quick
@given(data=st.data())
def test_mutated_projects(case: str, data: st.DataObject) -> None:
    tree = tomli.loads(PROJECTS[case])
    mutate(tree, data)
    text = "".join(f"{key(k)} = {toml(v)}\n" for k, v in tree.items())
    use(lock_file(case).name, TEXTS[case], {"pyproject.toml": text}.__getitem__)


def test_versions_that_packaging_reads_late() -> None:
    huge = "1" * 5000
    for name, text in {
        "uv.lock": f'version = 1\nrequires-python = "<{huge}"',
        "pdm.lock": f'metadata.lock_version = "4.5"\npackage = [{{name = "a", requires_python = ">{huge}"}}]',
        "pylock.toml": f'lock-version = "1.0"\ncreated-by = "x"\npackages = []\nrequires-python = ">{huge}"',
        "requirements.txt": f"a=={huge} --hash=sha256:{'0' * 64}",
    }.items():
        with pytest.raises(LockstockError):
            parse(name, text)


@pytest.mark.parametrize(
    "groups",
    [
        "".join(f'g{i} = [{{include-group = "g{i + 1}"}}]\n' for i in range(3000)) + "g3000 = []",
        "".join(
            f"g{i} = [{{include-group = 'g{i + 1}'}}, {{include-group = 'G{i + 1}'}}]\n" for i in range(30)
        )
        + "g30 = ['a']",
    ],
    ids=["a long chain", "a billion times one"],
)
def test_groups_that_include_others(groups: str) -> None:
    project = {"pyproject.toml": f"[dependency-groups]\n{groups}"}
    with pytest.raises(LockError, match=r"pyproject.toml:1: dependency-groups: "):
        parse("uv.lock", 'version = 1\nrequires-python = ">=3.8"\n', project.__getitem__)


@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab=.[]{}\"'\n\\ -:;@#1<*~/,!\0\u2028"), max_size=200))
def test_any_text(kind: str, text: str) -> None:
    with suppress(LockstockError):
        FORMATS[kind].reader.parse("lock", text, None)
    with suppress(LockstockError):
        detect("lock", text)


BOMBS = {
    "nested arrays": "a = " + "[" * 200_000,
    "nested tables": "a = " + "{a=" * 100_000,
    "dotted keys": "a" + ".a" * 200_000 + " = 1",
    "a huge word": "a" * 3_000_000,
    "a huge name": "a" * 1_000_000 + "==1 --hash=sha256:0",
    "many blanks": "a" + " " * 1_000_000 + "=",
    "many lines": "\n" * 1_000_000,
    "many continuations": "a\\\n" * 300_000,
    "many options": "--pre " * 200_000,
    "many quotes": "-i " + "\"'" * 300_000,
    "many hashes": "a==1 " + "--hash=sha256:" + "0" * 64 + " --hash " * 20_000,
    "many parentheses": "a==1 ; " + "(" * 100_000,
    "many packages": "[[package]]\n" * 200_000,
    "many headers": "".join(f"[a{i}]\n" for i in range(100_000)) + "[[package]]\nname = 1",
    "nested json": '{"_meta":' + "[" * 200_000,
    "a huge number": '{"_meta": ' + "1" * 100_000 + "}",
    "not closed": 'a = "' + "\\" * 500_001,
    "signs of a pylock": "lock-version = 1\n" * 100_000,
    "signs of requirements": "a[" * 500_000,
    "nested yaml": "lockfileVersion: '9.0'\npackages: " + "[" * 200_000,
    "nested yaml blocks": "- " * 200_000,
    "nested dependencies": '{"lockfileVersion": 1, "dependencies": {' + '"a": {"dependencies": {' * 100_000,
    "a place of many parts": '{"lockfileVersion": 3, "packages": {"'
    + "node_modules/" * 200_000
    + '": {"optionalDependencies": {"a": "1"}}}}',
    "signs of yarn": "# yarn lockfile v1\n" + "a" * 1_000_000 + '@"' * 200_000,
    "trailing commas": '{"lockfileVersion": 1,' + ", " * 300_000,
    "signs of conda": "- manager:" * 200_000,
    "strings that do not end": '{"lockfileVersion": 1, ' + '\\"' * 200_000 + "\\",
    "a header that is text": '[[package]]\nname = "a"\nversion = 1\nx = """\n[' + " " * 100_000 + '\n"""',
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", FORMATS)
def test_bombs_end_soon(kind: str, bomb: str) -> None:
    start = perf_counter()
    with suppress(LockstockError):
        FORMATS[kind].reader.parse("lock", BOMBS[bomb], None)
    with suppress(LockstockError):
        detect("lock", BOMBS[bomb])
    assert perf_counter() - start < 10, "this takes a quarter of a second where nothing else runs"


def mutate(tree: dict[str, Any], data: st.DataObject) -> None:
    """Replace or take out one value of a parsed document."""
    container, place = data.draw(st.sampled_from(list(places(tree))))
    if data.draw(st.booleans()):
        container[place] = data.draw(VALUES)
    else:
        del container[place]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for place, item in list(items):
        yield value, place
        yield from places(item)


def toml(value: Any) -> str:
    """Write a value as inline TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return value.isoformat() if isinstance(value, datetime) else key(value)


def key(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\0", "\\u0000").replace("\x7f", "\\u007f")
