"""Pages of simple repositories, honest and hostile."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockfiles.model import Digest
from mirror.upstream.simple import JSON_TYPE, file_version, parse_page

URL = "https://index.example/simple/flask/"
SHA = "ab" * 32


def test_json_pages() -> None:
    file = {
        "filename": "flask-3.0.0-py3-none-any.whl",
        "url": "../../files/flask-3.0.0-py3-none-any.whl",
        "hashes": {"sha256": SHA, "blake3": "ff"},
        "requires-python": ">=3.8",
        "size": 12,
        "yanked": "broken:\n wrong  files",
        "upload-time": "2026-01-02T03:04:05.678901Z",
    }
    (found,) = parse_page(JSON_TYPE, json.dumps({"files": [file]}).encode(), URL)
    assert found.url == "https://index.example/files/flask-3.0.0-py3-none-any.whl"
    assert (found.digests, found.size, found.requires_python) == ((Digest("sha256", SHA),), 12, ">=3.8")
    assert (found.yanked, found.upload_time) == ("broken: wrong files", "2026-01-02T03:04:05.678901Z")


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (True, True), (False, False), ("", False), (None, False), (" ", True), ("a\x1bb", True),
        ({"a": 1}, True), ("why", "why"),
    ],
)  # fmt: skip
def test_what_a_page_may_say_of_yanked_files(told: object, kept: bool | str) -> None:
    file = {"filename": "flask-3.0.0.tar.gz", "url": "flask-3.0.0.tar.gz", "yanked": told}
    (found,) = parse_page(JSON_TYPE, json.dumps({"files": [file]}).encode(), URL)
    assert found.yanked == kept


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-02T03:04:05", "2026-01-02T03:04:05.1234567Z", 7, None]
)
def test_upload_times_that_are_none(text: object) -> None:
    file = {"filename": "flask-3.0.0.tar.gz", "url": "flask-3.0.0.tar.gz", "upload-time": text}
    (found,) = parse_page(JSON_TYPE, json.dumps({"files": [file]}).encode(), URL)
    assert found.upload_time is None


def test_html_pages() -> None:
    page = f"""<html><head><base href="https://files.example/"></head><body>
    <a href="p/flask-3.0.0.tar.gz#sha256={SHA}" data-requires-python="&gt;=3.8" data-yanked>x</a>
    <a href="p/flask-2.9.tar.gz" data-yanked="wrong &lt;files&gt;">w</a>
    <A HREF="p/flask%2B-3.0.1-py3-none-any.whl">y</A><a name="no-link">z</a></body></html>"""
    first, why, second = parse_page("text/html; charset=utf-8", page.encode(), URL)
    assert (first.filename, first.url) == ("flask-3.0.0.tar.gz", "https://files.example/p/flask-3.0.0.tar.gz")
    assert (first.digests, first.requires_python, first.yanked) == ((Digest("sha256", SHA),), ">=3.8", True)
    assert why.yanked == "wrong <files>"
    assert (second.filename, second.digests, second.yanked) == ("flask+-3.0.1-py3-none-any.whl", (), False)


def test_a_page_is_narrowed_to_the_links_that_matter() -> None:
    other = "cd" * 32
    page = f"""<html><base href="https://files.example/"><a href="p/flask-1.0.tar.gz#sha256={other}">x</a>
    <A href="p/flask-2.0.tar.gz#sha256={SHA}" data-yanked="">y</A><a href="z">z</a></html>""".encode()
    wanted = Digest("sha256", SHA)
    narrow = parse_page("text/html", page, URL, digests=[wanted])
    assert narrow == tuple(file for file in parse_page("text/html", page, URL) if wanted in file.digests)
    assert len(narrow) == 1
    assert parse_page("text/html", page, URL, digests=[Digest("sha256", "0" * 64)]) == ()
    loud = page.replace(SHA.encode(), SHA.upper().encode())
    assert parse_page("text/html", loud, URL, digests=[wanted]) == narrow


def test_json_is_narrowed_too() -> None:
    files = [
        {"filename": f"flask-{n}.0.tar.gz", "url": "x", "hashes": {"sha256": str(n) * 64}} for n in range(4)
    ]
    page = json.dumps({"files": [*files, {"filename": "flask-9.0.tar.gz", "url": "x"}]}).encode()
    (found,) = parse_page(JSON_TYPE, page, URL, digests=[Digest("sha256", "2" * 64)])
    assert found.filename == "flask-2.0.tar.gz"
    assert len(parse_page(JSON_TYPE, page, URL)) == 5


_ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([1])
_SPELLED = st.sampled_from([SHA, SHA.upper(), "cd" * 32, "ab"])
_HASHES = st.dictionaries(st.sampled_from(["sha256", "SHA256", "md5"]), _SPELLED | _ODD, max_size=3)
_FILE = st.fixed_dictionaries(
    {"filename": st.sampled_from(["flask-1.0.tar.gz", "flask-2.0.tar.gz"]), "url": st.just("x")},
    optional={"hashes": _HASHES | _ODD, "size": _ODD, "more": st.lists(_ODD | _HASHES, max_size=2)},
)


@given(st.lists(_FILE | _ODD, max_size=4), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_narrow_json_says_what_all_of_it_says(files: list[object], ascii: bool, encoding: str) -> None:
    text = json.dumps({"files": files}, ensure_ascii=ascii)
    wanted, page = Digest("sha256", SHA), text.encode(encoding, "surrogatepass")
    try:
        wide = parse_page(JSON_TYPE, page, URL)
        narrow = parse_page(JSON_TYPE, page, URL, digests=[wanted])
    except ValueError:
        return
    assert [f for f in narrow if wanted in f.digests] == [f for f in wide if wanted in f.digests]


@pytest.mark.parametrize(
    "odd",
    [None, 1, [1], "abc", {"sha256": None}, {"sha256": [SHA]}, {"sha256": {}}, {"sha256": 1, "other": SHA}],
)
def test_hashes_that_are_none_leave_the_others(odd: object) -> None:
    good = {"filename": "it-1.tar.gz", "url": "it-1.tar.gz", "hashes": {"sha256": SHA}}
    files = [{"filename": "it-2.tar.gz", "url": "it-2.tar.gz", "hashes": odd}, good]
    page, wanted = json.dumps({"files": files}).encode(), Digest("sha256", SHA)
    assert [file.digests for file in parse_page(JSON_TYPE, page, URL)] == [(), (wanted,)]
    narrow = parse_page(JSON_TYPE, page, URL, digests=[wanted])
    assert [file.filename for file in narrow if file.digests] == ["it-1.tar.gz"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"files": 1}', b'{"files": [{}]}', b'{"files": [1]}', b"[" * 9999]
)
def test_json_that_is_no_page(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_page("application/json", body, URL)


def test_a_page_of_another_kind() -> None:
    with pytest.raises(ValueError, match="image/png"):
        parse_page("image/png", b"", URL)


@given(st.text(max_size=200))
def test_any_text_is_a_page_of_html(text: str) -> None:
    for file in parse_page("text/html", text.encode("utf-8", "replace"), URL):
        assert file.url is not None


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("flask-3.0.0-py3-none-any.whl", "3.0.0"),
        ("Flask-3.0.0.tar.gz", "3.0.0"),
        ("flask-3.0.0.zip", "3.0.0"),
        ("flask_cors-3.0.0.tar.gz", None),
        ("flask-3.0.0.exe", None),
        ("../flask-3.0.0.tar.gz", None),
        ("flask-3.0.0-py3-none-any.whl/x", None),
    ],
)
def test_only_files_of_the_project_count(filename: str, version: str | None) -> None:
    found = file_version(filename, "flask")
    assert (str(found) if found else None) == version
