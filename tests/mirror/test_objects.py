"""Pages of the time between two snapshots, and what they name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.publish.objects import Page, is_page, named, pages_of, widened

HTML_TYPE = "text/html; charset=utf-8"
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


def page(body: Any, kind: str = JSON_TYPE) -> Page:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Page(key="k", body=raw, content_type=kind)


def html(*names: str) -> str:
    links = "".join(f'<a href="{name}/">{name}</a><br>\n' for name in names)
    return f"<html><body>\n{links}</body></html>\n"


def project(*versions: str) -> dict[str, Any]:
    files = [
        {"filename": f"a-{version}.whl", "url": f"../../files/{version}/a%2B.whl"} for version in versions
    ]
    return {"name": "a", "versions": list(versions), "files": files}


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("simple/index.html", ["simple/index.html", "simple/"]),
        ("simple/a/index.html", ["simple/a/index.html", "simple/a/"]),
        ("simple/a/index.json", ["simple/a/index.json"]),
        ("npm/@s/a/index.html", ["npm/@s/a/index.html", "npm/@s/a"]),
        ("npm/a/1.0.0/index.json", ["npm/a/1.0.0/index.json"]),
    ],
)
def test_a_page_is_found_where_clients_ask_for_a_folder(path: str, keys: list[str]) -> None:
    assert [found.key for found in pages_of(path, b"")] == keys
    assert is_page(path)


@pytest.mark.parametrize("path", ["files/aa/bb/a.whl", "npm/a/-/a-1.0.0.tgz", "readme.txt"])
def test_other_files_are_no_pages(path: str) -> None:
    assert not is_page(path)


def test_a_wide_page_shows_both_and_what_is_new_first() -> None:
    new, old = project("2.0", "1.1"), project("1.0", "1.1")
    old["files"][1]["url"] = "elsewhere"
    found = json.loads(widened(page(new), json.dumps(old).encode()))
    assert [file["filename"] for file in found["files"]] == ["a-2.0.whl", "a-1.1.whl", "a-1.0.whl"]
    assert found["files"][1] == new["files"][1]
    assert found["versions"] == ["2.0", "1.1", "1.0"]


def test_a_wide_index_and_a_wide_html_page() -> None:
    new, old = {"projects": [{"name": "b"}]}, {"projects": [{"name": "a"}, {"name": "b"}]}
    found = json.loads(widened(page(new), json.dumps(old).encode()))
    assert found["projects"] == [{"name": "b"}, {"name": "a"}]
    wide = widened(page(html("b"), HTML_TYPE), html("a", "b").encode()).decode()
    assert wide == html("b", "a")
    assert widened(page(html("a", "b"), HTML_TYPE), html("b").encode()).decode() == html("a", "b")


def test_a_wide_packument_keeps_the_old_tags() -> None:
    def packument(version: str) -> dict[str, Any]:
        dist = {"tarball": f"http://mirror.example/npm/npm/@s/a/-/a-{version}.tgz"}
        return {"name": "@s/a", "dist-tags": {"latest": version}, "versions": {version: {"dist": dist}}}

    wide = widened(page(packument("2.0.0"), "application/json"), json.dumps(packument("1.0.0")).encode())
    found = json.loads(wide)
    assert found["dist-tags"] == {"latest": "1.0.0"}
    assert sorted(found["versions"]) == ["1.0.0", "2.0.0"]
    assert named(wide) == {"npm/@s/a/-/a-1.0.0.tgz", "npm/@s/a/-/a-2.0.0.tgz"}


def test_files_that_a_page_names() -> None:
    assert named(json.dumps(project("1.0")).encode()) == {"files/1.0/a+.whl"}
    assert named(b'{"projects": []}') == set()


_KEYS = st.sampled_from(["files", "filename", "versions", "projects", "name"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner),
    max_leaves=8,
)


@given(st.binary() | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_an_old_page_that_is_none_of_ours_takes_nothing_away(old: bytes) -> None:
    found = json.loads(widened(page(project("1.0")), old))
    assert found["files"][: len(project("1.0")["files"])] == project("1.0")["files"]
    assert '<a href="b/">b</a>' in widened(page(html("b"), HTML_TYPE), old).decode()
    named(old)
