"""The static tree: what is on its pages, that it switches at once, and that real pip and uv install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from mirror.layout import Layout
from mirror.publish import simple
from mirror.publish.metadata import wheel_metadata
from mirror.upstream.simple import JSON_TYPE, parse_page
from tests.mirror.stocking import hold, publish_tree, snapshot_of, stock, stocked
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.wheels import digest, make_sdist, make_wheel


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "mirror")


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "1.0", requires=["click>=1"], requires_python=">=3.8")


@pytest.fixture
def click(wheels: Path) -> Path:
    return make_wheel(wheels, "click", "1.0")


def publish(layout: Layout, *files: Path) -> str:
    name = stock(layout, *files)
    publish_tree(layout, name, layout.snapshots.load(name))
    return name


def current(layout: Layout) -> Path:
    return layout.tree / simple.CURRENT


def listed(layout: Layout, project: str) -> dict[str, str]:
    """Give the files of a project's page with the digest of what lies at their links."""
    page = current(layout) / "simple" / project / "index.json"
    found = json.loads(page.read_bytes())["files"]
    return {file["filename"]: digest((page.parent / unquote(file["url"])).resolve()) for file in found}


def content(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def test_pages_say_what_the_specifications_ask_for(layout: Layout, flask: Path, wheels: Path) -> None:
    sdist = make_sdist(wheels, "flask", "1.0")
    hold(layout, sdist)
    told = {"yanked": "wrong <files>", "upload_time": "2026-01-02T03:04:05.678901Z"}
    wheel = replace(stocked(flask, requires_python=">=3.8,<4"), **told)
    hold(layout, flask)
    name = layout.snapshots.add(snapshot_of([wheel, stocked(sdist)]))
    publish_tree(layout, name, layout.snapshots.load(name))
    tree = current(layout)
    metadata = zipfile.ZipFile(flask).read("flask-1.0.dist-info/METADATA")
    page = json.loads((tree / "simple/flask/index.json").read_bytes())
    assert page["meta"] == {"api-version": "1.1"}
    assert (page["name"], page["versions"]) == ("flask", ["1.0"])
    first = page["files"][0]
    place = f"../../files/{wheel.sha256[:2]}/{wheel.sha256[2:]}/{flask.name}"
    assert first == {
        "filename": flask.name, "url": place, "hashes": {"sha256": wheel.sha256}, "size": wheel.size,
        "requires-python": ">=3.8,<4", "core-metadata": {"sha256": sha256(metadata).hexdigest()},
        "yanked": told["yanked"], "upload-time": told["upload_time"],
    }  # fmt: skip
    assert "core-metadata" not in page["files"][1]
    assert (tree / "simple/flask" / f"{place}.metadata").read_bytes() == metadata
    (link, other) = Links((tree / "simple/flask/index.html").read_text()).found
    assert link == {
        "href": f"{place}#sha256={wheel.sha256}", "data-requires-python": ">=3.8,<4",
        "data-core-metadata": f"sha256={sha256(metadata).hexdigest()}", "data-yanked": told["yanked"],
    }  # fmt: skip
    assert other == {"href": f"../../files/{digest(sdist)[:2]}/{digest(sdist)[2:]}/{sdist.name}"
                             f"#sha256={digest(sdist)}"}  # fmt: skip
    assert Links((tree / "simple/index.html").read_text()).found == [{"href": "flask/"}]
    assert json.loads((tree / "simple/index.json").read_bytes())["projects"] == [{"name": "flask"}]


def test_our_own_reader_finds_the_same_on_both_pages(layout: Layout, flask: Path) -> None:
    publish(layout, flask)
    folder = current(layout) / "simple/flask"
    url = "http://mirror.example/simple/flask/"
    (from_json,) = parse_page(JSON_TYPE, (folder / "index.json").read_bytes(), url)
    (from_html,) = parse_page("text/html", (folder / "index.html").read_bytes(), url)
    assert from_json.digests == from_html.digests
    assert from_json.url == from_html.url
    assert (from_json.size, from_html.size) == (flask.stat().st_size, None)


def test_files_take_no_room_of_their_own(layout: Layout, flask: Path) -> None:
    publish(layout, flask)
    (file,) = current(layout).glob("files/*/*/*.whl")
    assert file.samefile(layout.store.path(digest(flask)))


def test_the_same_bytes_under_two_names_are_both_there(layout: Layout, click: Path) -> None:
    other = click.with_name(click.name.replace("py3", "py2.py3"))
    shutil.copy(click, other)
    publish(layout, click, other)
    assert listed(layout, "click") == dict.fromkeys((click.name, other.name), digest(click))


def test_equal_snapshots_give_equal_trees(layout: Layout, flask: Path, click: Path, tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    assert publish(layout, flask, click) == publish(other, click, flask)
    assert content(current(layout)) == content(current(other))


def test_what_a_snapshot_no_longer_names_leaves_the_index_but_a_running_client_gets_it(
    layout: Layout, flask: Path, click: Path, wheels: Path
) -> None:
    publish(layout, flask, click)
    (link,) = Links((current(layout) / "simple/click/index.html").read_text()).found
    place = (link["href"] or "").partition("#")[0].removeprefix("../../")
    publish(layout, flask)
    assert not (current(layout) / "simple/click").exists()
    assert digest(current(layout) / place) == digest(click)
    assert (current(layout) / f"{place}.metadata").exists()
    publish(layout, make_wheel(wheels, "flask", "2.0"))
    assert not (current(layout) / place).exists()


def test_unchanged_pages_keep_their_time(layout: Layout, flask: Path, click: Path) -> None:
    publish(layout, flask)
    page = current(layout) / "simple/flask/index.json"
    os.utime(page, (1, 1))
    publish(layout, flask, click)
    assert page.stat().st_mtime == 1
    assert (current(layout) / "simple/index.json").stat().st_mtime > 1


def test_a_tree_is_mended_while_clients_read_it(layout: Layout, flask: Path, click: Path) -> None:
    publish(layout, flask, click)
    name = publish(layout, flask)
    snapshot, before = layout.snapshots.load(name), content(current(layout))
    lost = next(current(layout).glob(f"files/*/*/{flask.name}"))
    for path in (lost, lost.with_name(f"{flask.name}.metadata"), current(layout) / "simple/flask/index.html"):
        path.unlink()
    other = current(layout) / "simple/flask/index.json"
    other.unlink()
    other.write_bytes(b"{}")
    kept = (current(layout) / "simple/index.json").stat().st_ino
    publish_tree(layout, name, snapshot)
    assert content(current(layout)) != before  # without being asked to nobody looks
    publish_tree(layout, name, snapshot, mend=True)
    assert content(current(layout)) == before
    assert lost.samefile(layout.store.path(digest(flask)))
    assert (current(layout) / "simple/index.json").stat().st_ino == kept
    assert sorted(path.name for path in layout.tree.iterdir() if path.name.startswith(".")) == []


def test_old_trees_go_and_the_current_one_stays(layout: Layout, flask: Path, click: Path) -> None:
    names = [publish(layout, flask), publish(layout, click), publish(layout, flask, click)]
    simple.prune(layout, names[1:2])
    assert sorted(path.name for path in layout.tree.iterdir()) == [*names[1:], "current"]
    simple.prune(layout, [])
    assert listed(layout, "click") == {click.name: digest(click)}


@pytest.mark.parametrize("content", [{"a.dist-info/METADATA": "x", "b.dist-info/METADATA": "y"}, {}, None])
def test_a_wheel_whose_metadata_is_not_clear_has_none(
    layout: Layout, wheels: Path, content: dict[str, str] | None
) -> None:
    wheel = wheels / "odd-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no zip at all")
    if content is not None:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    assert wheel_metadata(wheel, wheel.name) is None
    publish(layout, wheel)
    (entry,) = json.loads((current(layout) / "simple/odd/index.json").read_bytes())["files"]
    assert "core-metadata" not in entry


def test_a_killed_publisher_harms_nobody_and_the_next_one_ends_well(
    layout: Layout, flask: Path, wheels: Path
) -> None:
    publish(layout, flask)
    before = {flask.name: digest(flask)}
    moment = 0
    while True:
        new = make_wheel(wheels, "flask", f"2.{moment}")
        name = stock(layout, new)
        snapshot = layout.snapshots.load(name)
        killed = steps_until_killed(lambda: publish_tree(layout, name, snapshot), moment)  # noqa: B023
        after = {new.name: digest(new)}
        assert listed(layout, "flask") in (before, after), f"step {moment}"
        if not killed:
            break
        publish_tree(layout, name, snapshot)
        assert listed(layout, "flask") == after, f"step {moment}"
        killed = steps_until_killed(lambda: simple.prune(layout, []), moment)
        simple.prune(layout, [])
        assert sorted(path.name for path in layout.tree.iterdir()) == [name, "current"]
        before, moment = after, moment + 1
    assert moment > 5, "the steps were not seen"


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}


def install(client: str, layout: Layout, target: Path, *requirements: str) -> str:
    """Install with a real client, which must go well, and give what it says."""
    command = {
        "pip": [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "-q"],
        "uv": [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-config", "--no-cache"],
    }[client]
    command += [f"--index-url={current(layout).as_uri()}/simple/", f"--target={target}", *requirements]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=clean())
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_real_clients_install_what_was_yanked_where_it_is_pinned_and_say_why(
    layout: Layout, click: Path, tmp_path: Path, client: str
) -> None:
    hold(layout, click)
    yanked = replace(stocked(click), yanked="wrong <files>", upload_time="2026-01-02T03:04:05Z")
    name = layout.snapshots.add(snapshot_of([yanked]))
    publish_tree(layout, name, layout.snapshots.load(name))
    said = install(client, layout, tmp_path / "target", "click==1.0")
    assert "wrong <files>" in said
    assert (tmp_path / "target" / "click.py").exists()


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_real_clients_install_from_the_folder(
    layout: Layout, flask: Path, click: Path, tmp_path: Path, client: str
) -> None:
    """Names with a plus sign, too, which has to be quoted in links."""
    local = make_wheel(flask.parent, "torchlike", "2.0+cpu")
    publish(layout, flask, click, local)
    target = tmp_path / "target"
    install(client, layout, target, "flask", "torchlike==2.0+cpu")
    assert {path.name for path in target.glob("*.py")} == {"flask.py", "click.py", "torchlike.py"}
