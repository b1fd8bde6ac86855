"""The object store: Swift with its S3 API, real clients that read it, and runs that are killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from mirror import doctor
from mirror.destinations import ObjectStoreSpec
from mirror.errors import ObjectStoreError
from mirror.layout import Layout
from mirror.publish import bucket as buckets
from mirror.publish import object_store
from mirror.publish.object_store import Sent
from tests.index_server import IndexServer
from tests.mirror.stocking import publish_tree, snapshot_of, stock
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.npm_registry import make_tarball
from tests.object_server import KEY, SECRET, ObjectServer
from tests.project import Project
from tests.wheels import digest, make_wheel

NUMBERS = count()
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with ObjectServer(tmp_path_factory.mktemp("swift")) as server:
        yield server


@dataclass
class Target:
    """A mirror's folder, and a bucket for it alone."""

    server: ObjectServer
    layout: Layout
    spec: ObjectStoreSpec
    public: str  # without the prefix

    @property
    def url(self) -> str:
        return f"{self.public}/{self.spec.prefix}".rstrip("/")

    def publish(self, *files: Path) -> Sent | None:
        return self.send(self.stock(*files))

    def stock(self, *files: Path) -> str:
        name = stock(self.layout, *files)
        publish_tree(self.layout, name, self.layout.snapshots.load(name))
        return name

    def send(self, name: str) -> Sent | None:
        return object_store.publish(self.layout, name, self.spec)

    def held(self) -> set[str]:
        prefix = f"{self.spec.prefix}/"
        return {key.removeprefix(prefix) for key in self.server.objects(self.spec.bucket, prefix)}

    def get(self, key: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{key}", trust_env=False)

    def shown(self, form: str = JSON_TYPE) -> dict[str, set[str]]:
        """Give the files of all projects by one kind of page, each of them there to fetch."""
        found: dict[str, set[str]] = {}
        for project in self.links("simple/", form):
            found[project.rstrip("/")] = set()
            for link in self.links(f"simple/{project.rstrip('/')}/", form):
                key = unquote(link.partition("#")[0]).removeprefix("../../")
                assert self.get(key).status_code == 200, key
                found[project.rstrip("/")].add(key.rpartition("/")[2])
        return found

    def links(self, folder: str, form: str) -> list[str]:
        page = self.get(f"{folder}index.json" if form == JSON_TYPE else folder)
        if page.status_code == 404:
            return []
        if form != JSON_TYPE:
            return re.findall(r'<a href="([^"]*)"', page.text)
        content = page.json()
        return [file["url"] for file in content.get("files", ())] or [
            project["name"] for project in content.get("projects", ())
        ]


@pytest.fixture
def target(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    name = f"packages-{next(NUMBERS)}"
    public = server.bucket(name)
    spec = ObjectStoreSpec(bucket=name, prefix="team/stock", endpoint=server.endpoint)
    return Target(server, Layout(tmp_path / "mirror"), spec, public)


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "1.0", requires=["click>=1"])


@pytest.fixture
def click(wheels: Path) -> Path:
    return make_wheel(wheels, "click", "1.0")


CLIENTS = {
    "pip": [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "-q"],
    "uv": [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-config", "--no-cache"],
}


def installed(client: str, index: str, target: Path, *arguments: str) -> set[str]:
    clean = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("PIP_", "UV_")) and not key.lower().endswith("_proxy")
    }  # fmt: skip
    command = [*CLIENTS[client], f"--index-url={index}", f"--target={target}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert ended.returncode == 0, ended.stderr
    return {path.name for path in target.glob("*.py")}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_install_from_a_bucket_that_anybody_may_read(
    target: Target, flask: Path, click: Path, tmp_path: Path, client: str
) -> None:
    local = make_wheel(flask.parent, "torchlike", "2.0+cpu")
    target.publish(flask, click, local)
    hashed = tmp_path / "requirements.txt"
    hashed.write_text("".join(
        f"{pin} --hash=sha256:{digest(file)}\n"
        for pin, file in (("flask==1.0", flask), ("click==1.0", click), ("torchlike==2.0+cpu", local))
    ))  # fmt: skip
    index = f"{target.url}/simple/"
    wanted = {"flask.py", "click.py", "torchlike.py"}
    assert installed(client, index, tmp_path / "a", "--require-hashes", "-r", str(hashed)) == wanted
    assert installed(client, index, tmp_path / "b", "flask") == {"flask.py", "click.py"}


def test_only_what_is_missing_travels_and_again_nothing(target: Target, flask: Path, click: Path) -> None:
    first = target.publish(flask, click)
    assert first == Sent(files=4, size=first.size if first else 0, pages=9, deleted=0)
    name = target.stock(flask, click, make_wheel(flask.parent, "extra", "1.0"))
    sent = target.send(name)
    assert sent is not None
    assert (sent.files, sent.pages, sent.deleted) == (2, 6, 0)
    before = target.server.objects(target.spec.bucket)
    assert target.send(name) is None
    object_store.forget(target.layout)
    assert target.send(name) == Sent(files=0, size=0, pages=0, deleted=0)
    assert target.server.objects(target.spec.bucket) == before


def test_what_is_gone_or_changed_in_the_store_is_mended(target: Target, flask: Path, click: Path) -> None:
    target.publish(flask, click)
    s3, bucket = target.server.client, target.spec.bucket
    keys = sorted(target.held())
    s3.delete_object(Bucket=bucket, Key=f"team/stock/{keys[0]}")
    s3.put_object(Bucket=bucket, Key="team/stock/simple/flask/", Body=b"<html>other")
    object_store.forget(target.layout)
    sent = target.publish(flask, click)
    assert sent is not None
    assert (sent.files, sent.pages) == (1, 1)
    assert sorted(target.held()) == keys
    assert "other" not in target.get("simple/flask/").text


def test_what_the_tree_lost_is_not_deleted_in_the_store(target: Target, flask: Path) -> None:
    target.publish(flask)
    before = target.held()
    for lost in target.layout.tree.glob(f"current/files/*/*/{flask.name}*"):
        lost.unlink()
    object_store.forget(target.layout)
    assert target.publish(flask) == Sent(files=0, size=0, pages=0, deleted=0)
    assert target.held() == before


def test_objects_have_the_types_and_lifetimes_that_clients_need(target: Target, flask: Path) -> None:
    target.publish(flask)
    file = f"files/{digest(flask)[:2]}/{digest(flask)[2:]}/{flask.name}"
    for key, kind, lifetime in (
        ("simple/", "text/html; charset=utf-8", "no-cache"),
        ("simple/flask/", "text/html; charset=utf-8", "no-cache"),
        ("simple/flask/index.html", "text/html; charset=utf-8", "no-cache"),
        ("simple/flask/index.json", JSON_TYPE, "no-cache"),
        (file, "application/octet-stream", "public, max-age=31536000, immutable"),
        (f"{file}.metadata", "application/octet-stream", "public, max-age=31536000, immutable"),
    ):
        headers = target.get(key).headers
        assert (headers["content-type"], headers["cache-control"]) == (kind, lifetime), key
    assert target.get("simple/flask/").content == target.get("simple/flask/index.html").content


def test_what_a_snapshot_no_longer_names_leaves_but_a_running_client_gets_its_file(
    target: Target, flask: Path, click: Path
) -> None:
    target.server.client.put_object(Bucket=target.spec.bucket, Key="team/stock/readme.txt", Body=b"ours")
    target.server.client.put_object(Bucket=target.spec.bucket, Key="simple/other/", Body=b"not ours")
    target.publish(flask, click)
    wheel = f"files/{digest(click)[:2]}/{digest(click)[2:]}/{click.name}"
    target.publish(flask)
    assert target.get("simple/click/").status_code == 404
    assert {key for key in target.held() if "click" in key} == {wheel, f"{wheel}.metadata"}
    target.publish(make_wheel(flask.parent, "flask", "2.0"))
    assert not {key for key in target.held() if "click" in key}
    assert target.shown() == {"flask": {"flask-2.0-py3-none-any.whl"}}
    everything = target.server.objects(target.spec.bucket)
    assert {"team/stock/readme.txt", "simple/other/"} <= everything.keys()


def test_a_killed_run_leaves_all_of_the_old_or_all_of_the_new_and_the_next_ends_well(
    target: Target, wheels: Path
) -> None:
    """At no moment does a client see half, whichever package of a new pair needs the other's new one."""

    def pair(number: int) -> list[Path]:
        wanted = f"{number}.0"
        top = make_wheel(wheels, "top", wanted, requires=[f"base=={wanted}"])
        once = make_wheel(wheels, f"once{number}", "1.0")
        return [make_wheel(wheels, "base", wanted), top, once]

    target.publish(*pair(0))
    before = target.shown()
    number, moment = 1, 0
    while True:
        name = target.stock(*pair(number))
        after = {"base": {f"base-{number}.0-py3-none-any.whl"}, "top": {f"top-{number}.0-py3-none-any.whl"},
                 f"once{number}": {f"once{number}-1.0-py3-none-any.whl"}}  # fmt: skip
        killed = steps_until_killed(lambda: target.send(name), moment, ("http.client.send",))  # noqa: B023
        for form in (JSON_TYPE, "text/html"):
            now = target.shown(form)
            assert contains(now, before) or contains(now, after), f"step {moment}: {now}"
        if not killed:
            break
        target.send(name)
        for form in (JSON_TYPE, "text/html"):
            assert target.shown(form) == after, f"step {moment}"
        before, number, moment = after, number + 1, moment + 9
    assert moment > 30, "the steps were not seen"


def contains(shown: dict[str, set[str]], whole: dict[str, set[str]]) -> bool:
    return all(files <= shown.get(project, set()) for project, files in whole.items())


def test_large_files_go_in_parts_and_those_of_killed_runs_are_swept(
    target: Target, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_PART", 5 << 20)
    large = make_wheel(wheels, "large", "1.0", files={"large/data.bin": os.urandom(4 << 20).hex()})
    assert large.stat().st_size < 5 << 20, "hex packs by half"
    huge = wheels / "huge-1.0-py3-none-any.whl"
    huge.write_bytes(large.read_bytes() + os.urandom(8 << 20))
    s3, bucket = target.server.client, target.spec.bucket
    for place in ("files/00/1/left.whl", "npm/left/-/left-1.0.0.tgz"):
        left = s3.create_multipart_upload(Bucket=bucket, Key=f"team/stock/{place}")
        s3.upload_part(Bucket=bucket, Key=left["Key"], UploadId=left["UploadId"], PartNumber=1, Body=b"x")
    other = s3.create_multipart_upload(Bucket=bucket, Key="others/large.bin")
    target.publish(huge)
    key = f"files/{digest(huge)[:2]}/{digest(huge)[2:]}/{huge.name}"
    assert target.get(key).content == huge.read_bytes()
    uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads] == [other["Key"]]
    object_store.forget(target.layout)
    assert target.publish(huge) == Sent(files=0, size=0, pages=0, deleted=0)


def test_npm_pages_name_the_stores_own_address(target: Target) -> None:
    from tests.mirror.test_npm_tree import stocked

    layout = target.layout
    lib = stocked(layout, make_tarball("@scope/lib", "2.1.0"))
    name = layout.snapshots.add(snapshot_of([lib]))
    publish_tree(layout, name, layout.snapshots.load(name), "http://mirror.example")
    spec = ObjectStoreSpec(
        bucket=target.spec.bucket, prefix="web", endpoint=target.spec.endpoint, url=f"{target.public}/web"
    )
    object_store.publish(layout, name, spec)
    cache = layout.root / "npm-cache"
    ended = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", f"--registry={spec.url}/npm/", f"--cache={cache}",
         "@scope/lib"],
        cwd=layout.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads((layout.root / "node_modules/@scope/lib/package.json").read_bytes())
    assert found["version"] == "2.1.0"
    tarball = stocked(layout, make_tarball("@scope/lib", "2.1.0", license="MIT"))
    again = layout.snapshots.add(snapshot_of([tarball]))
    publish_tree(layout, again, layout.snapshots.load(again), "http://mirror.example")
    object_store.publish(layout, again, spec)
    body = httpx.get(f"{spec.url}/npm/@scope/lib/-/lib-2.1.0.tgz", trust_env=False).content
    assert body == layout.store.path(tarball.sha256).read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "s3cret-guess"}, ["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]),
        ({"AWS_ACCESS_KEY_ID": "test:AKIASTRANGER"}, ["SignatureDoesNotMatch"]),
        ({"AWS_ACCESS_KEY_ID": "test:reader"}, ["AccessDenied"]),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ["credentials"]),
        ({"bucket": "nowhere"}, ["NoSuchBucket", "s3://nowhere"]),
        ({"endpoint": "http://127.0.0.1:1"}, ["cannot be reached", "127.0.0.1:1"]),
        (
            {"endpoint": "http://u:s3cret@minio_server:9000"},
            ["cannot use the endpoint", "//minio_server:9000"],
        ),
        ({"HTTP_PROXY": "http://u:s3cret-proxy@127.0.0.1:1"}, ["cannot be reached", "proxy"]),
        ({"AWS_PROFILE": "nobody"}, ["nobody"]),
    ],
    ids=str,
)
def test_refusals_are_told_without_secrets(
    target: Target, flask: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], words: list[str]
) -> None:
    places: dict[str, Any] = {key: value for key, value in change.items() if key.islower()}
    for key in change.keys() - places.keys():
        monkeypatch.setenv(key, change[key])
    if "HTTP_PROXY" in change:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
    target.spec = ObjectStoreSpec(
        **{"bucket": target.spec.bucket, "endpoint": target.spec.endpoint, **places}
    )
    with pytest.raises(ObjectStoreError) as caught:
        target.publish(flask)
    told = f"{caught.value} {caught.value.hint}"
    assert [word for word in words if word not in told] == [], told
    assert caught.value.hint
    for secret in (SECRET, "s3cret", "AKIASTRANGER"):
        assert secret not in told
    assert not (target.layout.root / object_store.NOTE).exists()


def test_a_profile_says_endpoint_and_credentials(
    target: Target, flask: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile mirror]\nendpoint_url = {target.spec.endpoint}\n")
    keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(f"[mirror]\n{keys}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mirror")
    target.spec = replace(target.spec, endpoint=None)
    assert target.publish(flask)
    assert target.shown() == {"flask": {flask.name}}


def table(target: Target, url: str | None = None) -> str:
    more = f'url = "{url}"\n' if url else ""
    return f'[object_store]\nbucket = "{target.spec.bucket}"\nendpoint = "{target.spec.endpoint}"\n{more}'


def test_a_refresh_publishes_there_too_and_a_run_without_changes_asks_nobody(
    project: Project, index: IndexServer, target: Target, flask: Path, click: Path, tmp_path: Path
) -> None:
    project.configure(more=table(target))
    project.lock(flask, click)
    ended = project.mirror("refresh")
    assert ended.returncode == 0, ended.stderr
    assert f"s3://{target.spec.bucket}: sending 4 files" in " ".join(ended.stderr.split())
    assert installed("uv", f"{target.public}/simple/", tmp_path / "site", "flask") == {"flask.py", "click.py"}
    elsewhere = table(target).replace(target.spec.endpoint or "", "http://127.0.0.1:1")
    note = (project.layout.root / object_store.NOTE).read_text()
    moved = note.replace(target.spec.endpoint or "", "http://127.0.0.1:1")
    (project.layout.root / object_store.NOTE).write_text(moved)
    project.configure(more=elsewhere)
    assert project.refreshed()["changed"] is False
    project.lock(flask)
    ended = project.mirror("refresh")
    assert ended.returncode == 71
    assert SECRET not in ended.stderr + ended.stdout
    project.configure(more=table(target))
    assert project.refreshed()["changed"] is True
    assert httpx.get(f"{target.public}/simple/click/", trust_env=False).status_code == 404
    assert project.mirror("rollback", "previous").returncode == 0
    assert httpx.get(f"{target.public}/simple/click/", trust_env=False).status_code == 200


def test_publish_mends_every_place_and_the_doctor_tells_when(
    project: Project, index: IndexServer, target: Target, flask: Path
) -> None:
    def examined() -> tuple[str, str]:
        ended = project.mirror("doctor", "--json")
        (found,) = [item for item in json.loads(ended.stdout) if item["topic"] == "object store"]
        assert SECRET not in ended.stdout + ended.stderr
        return found["grade"], found["message"]

    index.pages["/simple/"] = b"<html></html>"
    project.lock(flask)
    project.configure(more=table(target, target.public))
    ended = project.mirror("publish")
    assert (ended.returncode, "mirror refresh" in ended.stderr) == (31, True)
    assert examined() == ("ok", f"s3://{target.spec.bucket} is reached; it is empty")
    project.refreshed()
    assert examined() == ("ok", f"s3://{target.spec.bucket} is reached")
    s3 = target.server.client
    for key in target.server.objects(target.spec.bucket):
        s3.delete_object(Bucket=target.spec.bucket, Key=key)
    (lost,) = project.layout.tree.glob(f"current/files/*/*/{flask.name}")
    lost.unlink()
    assert examined() == ("warning", f"s3://{target.spec.bucket} shows other packages than this mirror does")
    assert project.mirror("publish").returncode == 0
    assert lost.is_file()
    assert examined()[0] == "ok"
    s3.put_bucket_acl(Bucket=target.spec.bucket, ACL="private")
    grade, message = examined()
    assert (grade, "clients cannot read it" in message) == ("failed", True)
    project.environment["AWS_SECRET_ACCESS_KEY"] = "s3cret-guess"
    grade, message = examined()
    assert (grade, "SignatureDoesNotMatch" in message) == ("failed", True)


def test_a_url_that_no_client_can_read_is_told_by_the_doctor(target: Target, flask: Path) -> None:
    target.publish(flask)
    found = doctor._object_store(replace(target.spec, url="http://h:abc"), target.layout)
    assert (found.grade, "clients cannot read it" in found.message) == ("failed", True)


def test_without_boto3_the_extra_is_named(project: Project, target: Target, flask: Path) -> None:
    project.lock(flask)
    project.configure(more=table(target))
    (project.folder / "boto3.py").write_text("raise ImportError('not here')\n")
    project.environment["PYTHONPATH"] = str(project.folder)
    ended = project.mirror("refresh")
    assert ended.returncode == 71
    assert "lockstock[s3]" in ended.stderr
