"""A devpi-server elsewhere that is filled by uploads: a real one, and real clients that read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from mirror import doctor
from mirror.destinations import RemoteDevpiSpec
from mirror.errors import RegistryError
from mirror.layout import Layout
from mirror.publish import devpi_remote
from mirror.publish.devpi_http import PASSWORD, Remote
from mirror.publish.devpi_remote import Sent
from tests.index_server import IndexServer
from tests.mirror.registry import Registry, free_port, pip_install, uv_install
from tests.mirror.stocking import publish_tree, snapshot_of, stock, stocked
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.mirror.test_devpi_replica import answers, wait_until
from tests.project import Project
from tests.wheels import digest, make_wheel

BIN = Path(sys.executable).parent
SECRET = "correct-horse-battery"
USER = "team"


class Elsewhere(Registry):
    """The stable index of the team."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def index_url(self) -> str:
        return f"{self.url}/{USER}/current/+simple/"

    def indexes(self) -> list[str]:
        return sorted(self.configurations())

    def configurations(self) -> dict[str, dict[str, object]]:
        headers = {"Accept": "application/json"}
        answer = httpx.get(f"{self.url}/{USER}", headers=headers, trust_env=False)
        found: dict[str, dict[str, object]] = answer.json()["result"]["indexes"]
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "secret").write_bytes(os.urandom(32))
    (folder / "secret").chmod(0o600)
    folder.chmod(0o700)
    state = [f"--serverdir={folder / 'server'}"]
    cheap = ["--argon2-memory-cost=1024", "--argon2-parallelism=1", "--argon2-time-cost=1"]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    subprocess.run([BIN / "devpi-init", *state, "--no-root-pypi"], check=True, env=clean, capture_output=True)
    found = Elsewhere(folder, port=free_port())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "devpi-server", *state, f"--secretfile={folder / 'secret'}", *cheap,
             "--host=127.0.0.1", f"--port={found.port}"],
            env=clean, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(found))
        yield found
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def elsewhere(running: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    """The server with a fresh user, who may log in."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(PASSWORD, SECRET)
    httpx.put(f"{running.url}/{USER}", json={"password": SECRET}).raise_for_status()
    yield running
    monkeypatch.setenv(PASSWORD, SECRET)
    with Remote(spec_of(running)) as remote:
        for index in remote.indexes():
            remote.modify(index, {"volatile": True})
            remote.delete(index)
        remote.delete("")


def spec_of(elsewhere: Elsewhere) -> RemoteDevpiSpec:
    return RemoteDevpiSpec(url=elsewhere.url, user=USER)


@dataclass
class Mirror:
    """A mirror's folder that publishes elsewhere."""

    layout: Layout
    spec: RemoteDevpiSpec

    def stock(self, *files: Path) -> str:
        name = stock(self.layout, *files)
        publish_tree(self.layout, name, self.layout.snapshots.load(name))
        return name

    def send(self, name: str, keep: tuple[str, ...] = ()) -> Sent | None:
        return devpi_remote.publish(self.layout, name, self.layout.snapshots.load(name), self.spec, keep)

    def publish(self, *files: Path) -> Sent | None:
        return self.send(self.stock(*files))


@pytest.fixture
def mirror(elsewhere: Elsewhere, tmp_path: Path) -> Mirror:
    return Mirror(Layout(tmp_path / "mirror"), spec_of(elsewhere))


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, version, **more: make_wheel(tmp_path / "wheels", name, version, **more)


def shown(elsewhere: Elsewhere) -> dict[str, str]:
    """Give the digests of all files that clients get, by name."""
    files = (elsewhere.files(project) for project in elsewhere.projects())
    return {name: sha256 for found in files for name, sha256 in found.items()}


def digests(*files: Path) -> dict[str, str]:
    return {file.name: digest(file) for file in files}


def test_clients_install_from_the_stable_index(elsewhere, mirror, wheel, tmp_path):
    app, base = wheel("lockstock-app", "1.0", requires=["lockstock-base"]), wheel("lockstock-base", "2.0")
    assert mirror.publish(app, base) == Sent(
        files=2, size=app.stat().st_size + base.stat().st_size, copied=0, deleted=0
    )
    assert shown(elsewhere) == digests(app, base)
    for install in (pip_install, uv_install):
        done = install(elsewhere, tmp_path / install.__name__, stocked(app), stocked(base))
        assert done.returncode == 0, done.stdout
    for index in elsewhere.configurations().values():
        assert (index["volatile"], index["acl_upload"], index["acl_toxresult_upload"]) == (False, [], [])


def test_requires_python_is_told(elsewhere, mirror, wheel):
    file = wheel("lockstock-it", "1.0")
    mirror.layout.store.root.mkdir(parents=True)
    mirror.stock(file)
    snapshot = snapshot_of([stocked(file, requires_python=">=3.9")])
    devpi_remote.publish(mirror.layout, mirror.layout.snapshots.add(snapshot), snapshot, mirror.spec, ())
    page = httpx.get(f"{elsewhere.index_url}lockstock-it/")
    assert 'data-requires-python="&gt;=3.9"' in page.text


def test_a_file_whose_name_spells_the_version_otherwise(elsewhere, mirror, wheel):
    file = wheel("lockstock-it", "2024.01.02")
    mirror.stock(file)
    snapshot = snapshot_of([replace(stocked(file), version="2024.1.2")])
    devpi_remote.publish(mirror.layout, mirror.layout.snapshots.add(snapshot), snapshot, mirror.spec, ())
    assert shown(elsewhere) == digests(file)


@pytest.mark.parametrize(
    ("project", "filename", "version"),
    [
        ("foo-bar", "foo_bar-1.0+cpu-cp311-cp311-linux_x86_64.whl", "1.0+cpu"),
        ("foo-bar", "Foo.Bar-1.0-1-py3-none-any.whl", "1.0"),
        ("foo-bar", "foo-bar-1.0.post1.tar.gz", "1.0.post1"),
        ("foo-bar", "foo-bar-1.0-2.zip", "1.0-2"),
        ("foo", "foo-2024.01.tgz", "2024.01"),
    ],
)
def test_the_version_as_a_file_spells_it(project, filename, version):
    assert devpi_remote._version(project, filename) == version


def test_what_is_there_is_noted_and_nobody_is_asked(elsewhere, mirror, wheel, monkeypatch):
    name = mirror.stock(wheel("lockstock-it", "1.0"))
    assert mirror.send(name)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "httpx", None)
        patch.delitem(sys.modules, "mirror.publish.devpi_http")
        assert mirror.send(name) is None


def test_only_new_files_travel(elsewhere, mirror, wheel):
    one, two = wheel("lockstock-one", "1.0"), wheel("lockstock-two", "1.0")
    mirror.publish(one, two)
    bumped = wheel("lockstock-two", "1.1")
    sent = mirror.publish(one, bumped)
    assert sent == Sent(files=1, size=bumped.stat().st_size, copied=1, deleted=0)
    assert shown(elsewhere) == digests(one, bumped)
    assert not any(index["volatile"] for index in elsewhere.configurations().values())


def test_a_release_with_a_file_that_is_gone_is_uploaded_and_not_copied(elsewhere, mirror, tmp_path, wheel):
    one, same_release = wheel("lockstock-one", "1.0"), tmp_path / "lockstock_one-1.0-1-py3-none-any.whl"
    same_release.write_bytes(one.read_bytes() + b"another build")
    mirror.publish(one, same_release)
    sent = mirror.publish(one)
    assert sent
    assert (sent.files, sent.copied) == (1, 0)
    assert shown(elsewhere) == digests(one)


def test_the_switch_is_one_request(elsewhere, mirror, wheel, monkeypatch):
    """Before the stable index is changed, the whole new one is there, and clients see the old one."""
    old, new = wheel("lockstock-it", "1.0"), wheel("lockstock-it", "2.0")
    mirror.publish(old)
    seen = []
    modify = Remote.modify

    def watched(remote: Remote, index: str, configuration: dict[str, object]) -> None:
        before = shown(elsewhere)
        modify(remote, index, configuration)
        seen.append((index == "current", before, shown(elsewhere)))

    name = mirror.stock(new)
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "modify", watched)
        mirror.send(name)
    assert seen == [(False, digests(old), digests(old)), (True, digests(old), digests(new))]


def test_pruned_snapshots_go_but_for_the_one_before(elsewhere, mirror, wheel):
    with Remote(mirror.spec) as remote:
        remote.make("s-of-people", {"type": "stage", "bases": []})
    names = [mirror.stock(wheel("lockstock-it", version)) for version in ("1.0", "2.0", "3.0")]
    for name in names:
        mirror.send(name, keep=(name,))
    assert elsewhere.indexes() == sorted(["current", "s-of-people", f"s-{names[1]}", f"s-{names[2]}"])
    assert mirror.send(names[2], keep=names[1:]) is None
    assert mirror.send(names[2], keep=(names[2],)) == Sent(files=0, size=0, copied=0, deleted=1)
    assert elsewhere.indexes() == sorted(["current", "s-of-people", f"s-{names[2]}"])
    assert mirror.send(names[2], keep=(names[2],)) is None


def test_pruning_reaches_it_or_the_next_refresh_does(
    elsewhere: Elsewhere, project: Project, wheels: Path
) -> None:
    names = []
    for version in ("1.0", "2.0", "3.0"):
        project.configure(more=table(elsewhere))
        project.lock(make_wheel(wheels, "lockstock-it", version))
        names.append(project.refreshed()["snapshot"])
    assert elsewhere.indexes() == sorted(["current", *(f"s-{name}" for name in names)])
    project.configure(mirror="keep = 2", more=table(elsewhere))
    ended = project.mirror("prune")
    assert (ended.returncode, ended.stdout.split()) == (0, names[:1])
    assert "1 old snapshot deleted" in " ".join(ended.stderr.split())
    assert elsewhere.indexes() == sorted(["current", *(f"s-{name}" for name in names[1:])])
    project.configure(mirror="keep = 1", more=table(elsewhere))
    project.environment["LOCKSTOCK_DEVPI_PASSWORD"] = "wrong-battery"
    ended = project.mirror("prune", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["snapshots"]) == (33, [names[1]])
    assert project.layout.snapshots.names() == (names[2],)
    del project.environment["LOCKSTOCK_DEVPI_PASSWORD"]
    assert project.refreshed()["changed"] is False
    assert elsewhere.indexes() == sorted(["current", f"s-{names[2]}"])
    assert project.mirror("prune", "--json").returncode == 0


def test_a_roll_back_sends_nothing(elsewhere, mirror, wheel):
    old = wheel("lockstock-it", "1.0")
    first, second = mirror.stock(old), mirror.stock(wheel("lockstock-it", "2.0"))
    for name in (first, second):
        mirror.send(name, keep=(first, second))
    assert mirror.send(first, keep=(first, second)) == Sent(files=0, size=0, copied=0, deleted=0)
    assert shown(elsewhere) == digests(old)


def test_a_killed_run_shows_the_old_or_the_new_and_the_next_ends_it(elsewhere, mirror, wheel, monkeypatch):
    request = httpx.Client.request

    def told(client: httpx.Client, *arguments: Any, **options: Any) -> httpx.Response:
        sys.audit("tests.request")
        return request(client, *arguments, **options)

    monkeypatch.setattr(httpx.Client, "request", told)
    before: dict[str, str] = {}
    moment = number = 0
    while True:
        same = wheel("lockstock-same", "1.0")
        files = [wheel(f"lockstock-{part}", f"{number}.0") for part in ("one", "two", "three")]
        name, after = mirror.stock(same, *files), digests(same, *files)
        keep = (name,)
        killed = steps_until_killed(lambda: mirror.send(name, keep), moment, ("tests.request",))  # noqa: B023
        now = shown(elsewhere) if "current" in elsewhere.indexes() else {}
        assert now in (before, after), f"step {moment}"
        if not killed:
            break
        mirror.send(name, keep)
        assert shown(elsewhere) == after, f"step {moment}"
        assert len(elsewhere.indexes()) <= 3, f"step {moment}"
        before, number, moment = after, number + 1, moment + 3
    assert moment > 15, "the steps were not seen"


def test_what_was_lost_or_changed_there_is_mended(elsewhere, mirror, wheel, tmp_path):
    one, two = wheel("lockstock-one", "1.0"), wheel("lockstock-two", "1.0")
    name = mirror.stock(one, two)
    mirror.send(name)
    foreign = make_wheel(tmp_path / "other", "lockstock-one", "1.0", requires=["evil"])
    with Remote(mirror.spec) as remote:
        index = f"s-{name}"
        remote.modify(index, {"volatile": True, "acl_upload": [USER]})
        remote.delete(index, "lockstock-two")
        remote.upload(index, foreign, foreign.name, {"name": "lockstock-one", "version": "1.0"})
    assert shown(elsewhere) == digests(foreign)
    assert mirror.send(name) is None
    devpi_remote.forget(mirror.layout)
    mirror.send(name)
    assert shown(elsewhere) == digests(one, two)
    assert elsewhere.configurations()[index]["volatile"] is False


def test_a_wrong_password_is_one_sentence_without_it(elsewhere, mirror, wheel, monkeypatch):
    monkeypatch.setenv(PASSWORD, "wrong-battery")
    with pytest.raises(RegistryError, match="401") as caught:
        mirror.publish(wheel("lockstock-it", "1.0"))
    told = f"{caught.value} {caught.value.hint}"
    assert PASSWORD in told
    assert "wrong-battery" not in told
    assert "current" not in elsewhere.indexes()


def test_a_password_of_netrc(elsewhere, mirror, wheel, monkeypatch, tmp_path):
    monkeypatch.delenv(PASSWORD)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = mirror.stock(wheel("lockstock-it", "1.0"))
    with pytest.raises(RegistryError, match="no password"):
        mirror.send(name)
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert mirror.send(name)


def table(elsewhere: Elsewhere, port: int | None = None) -> str:
    return f'[remote_devpi]\nurl = "http://127.0.0.1:{port or elsewhere.port}"\nuser = "{USER}"\n'


def test_a_refresh_publishes_there_too_and_one_without_changes_asks_nobody(
    elsewhere: Elsewhere, project: Project, index: IndexServer, wheels: Path
) -> None:
    one, two = make_wheel(wheels, "lockstock-one", "1.0"), make_wheel(wheels, "lockstock-two", "1.0")
    project.configure(more=table(elsewhere))
    project.lock(one, two)
    ended = project.mirror("refresh")
    assert ended.returncode == 0, ended.stderr
    assert "sending 2 files" in ended.stderr
    assert shown(elsewhere) == digests(one, two)
    note = project.layout.root / devpi_remote.NOTE
    note.write_text(note.read_text().replace(f":{elsewhere.port}", ":1"))
    project.configure(more=table(elsewhere, port=1))
    assert project.refreshed()["changed"] is False
    project.lock(one)
    ended = project.mirror("refresh")
    assert ended.returncode == 33
    assert "cannot be reached" in ended.stderr
    assert SECRET not in ended.stderr + ended.stdout
    assert [page.parent.name for page in (project.layout.tree / "current").glob("simple/*/index.json")] == [
        "lockstock-one"
    ]
    assert shown(elsewhere) == digests(one, two)
    project.configure(more=table(elsewhere))
    assert project.refreshed()["changed"] is True
    assert shown(elsewhere) == digests(one)
    assert project.mirror("rollback", "previous").returncode == 0
    assert shown(elsewhere) == digests(one, two)


def test_an_object_store_that_is_away_keeps_nothing_from_it(
    elsewhere: Elsewhere, project: Project, wheels: Path
) -> None:
    one, two = make_wheel(wheels, "lockstock-one", "1.0"), make_wheel(wheels, "lockstock-two", "1.0")
    away = '[object_store]\nbucket = "packages"\nendpoint = "http://127.0.0.1:1"\n'
    project.environment |= {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_MAX_ATTEMPTS": "1",
    }
    project.configure(more=away + table(elsewhere))
    project.lock(one)
    ended = project.mirror("refresh")
    assert (ended.returncode, "object store cannot be reached" in ended.stderr) == (71, True)
    assert shown(elsewhere) == digests(one)
    project.configure(more=away + table(elsewhere, port=1))
    project.lock(two)
    ended = project.mirror("refresh")
    assert ended.returncode == 71
    told = " ".join(ended.stderr.split())
    assert told.index("remote devpi cannot be reached") < told.index("object store cannot be reached")
    assert SECRET not in told
    project.configure(more=table(elsewhere))
    assert project.refreshed()["changed"] is True
    assert shown(elsewhere) == digests(two)


def test_publish_mends_and_the_doctor_tells_when(
    elsewhere: Elsewhere,
    project: Project,
    index: IndexServer,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def examined() -> tuple[str, str]:
        findings = doctor.examine(project.config)
        found = next(finding for finding in findings if finding.topic == "remote devpi")
        return found.grade, found.message

    index.pages["/simple/"] = b"<html></html>"
    one = make_wheel(wheels, "lockstock-one", "1.0")
    project.configure(more=table(elsewhere))
    project.lock(one)
    project.refreshed()
    assert examined()[0] == "ok"
    with Remote(spec_of(elsewhere)) as remote:
        remote.modify("current", {"bases": []})
    grade, message = examined()
    assert (grade, "shows no snapshot" in message) == ("warning", True)
    assert project.mirror("publish").returncode == 0
    assert examined()[0] == "ok"
    assert shown(elsewhere) == digests(one)
    monkeypatch.setenv(PASSWORD, "wrong-battery")
    grade, message = examined()
    assert (grade, "401" in message, "wrong-battery" in message) == ("failed", True, False)


@contextmanager
def stranger(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything with this; give its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "no devpi-server"),
        (200, b"{}", "no devpi-server"),
        (200, b'{"result": 1}', "no devpi-server"),
        (200, b'{"result": {"password": 1}}', "no devpi-server"),
        (307, b"", "gives 307"),
        (500, SECRET.encode(), "gives 500"),
    ],
)
def test_what_is_no_devpi_is_told(monkeypatch, status, body, reason):
    monkeypatch.setenv(PASSWORD, SECRET)
    with stranger(status, body) as url, pytest.raises(RegistryError, match=reason) as caught:
        devpi_remote.shown(RemoteDevpiSpec(url=url, user=USER))
    assert SECRET not in f"{caught.value} {caught.value.hint}"
