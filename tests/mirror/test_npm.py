"""Stocking npm locks as a user does: a real npm's settings, a registry that may misbehave."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockfiles.formats import parse
from mirror.errors import UnsafeArchiveError
from mirror.tarball import check_tarball
from tests.index_server import Answer
from tests.npm_registry import (
    NpmRegistry,
    Tarball,
    archive,
    lock_entry,
    make_tarball,
    member,
    package_lock,
    sri,
)
from tests.project import Project

CONFIG = """\
[mirror]
port = {port}

[targets]
python = ["3.11"]
platforms = ["linux/amd64"]
glibc = "2.36"

[locks.web]
path = "package-lock.json"
{more}
"""
NPM = shutil.which("npm")
assert NPM, "these tests ask npm for its settings"


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    with NpmRegistry() as server:
        yield server


@pytest.fixture
def web(project: Project, registry: NpmRegistry) -> Project:
    use(project, registry)
    return project


def use(project: Project, registry: NpmRegistry, more: str = "", npmrc: str = "") -> None:
    """Configure a project of nothing but npm, and an npm that has this registry."""
    project.config.write_text(CONFIG.format(port=project.port, more=more))
    user = project.folder / "user.npmrc"
    user.write_text(npmrc or f"registry={registry.url}/\nfetch-retries=1\n")
    project.environment = {
        "NPM_CONFIG_USERCONFIG": str(user),
        "NPM_CONFIG_GLOBALCONFIG": os.devnull,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
    }


def lock(project: Project, text: str) -> None:
    (project.folder / "package-lock.json").write_text(text)


def refused(project: Project, *arguments: str) -> tuple[int, str]:
    ended = project.mirror("refresh", *arguments)
    assert ended.returncode, ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def held(project: Project) -> list[str]:
    snapshot = project.layout.snapshots.current()
    assert snapshot is not None
    return [f"{a.ecosystem}:{a.name}@{a.version} {a.filename}" for a in snapshot.artifacts]


@pytest.mark.parametrize("resolved", [True, False])
def test_stocks_what_the_lock_names(web: Project, registry: NpmRegistry, resolved: bool) -> None:
    registry.tarballs = [make_tarball("a"), make_tarball("@s/b", "2.0.0"), make_tarball("c")]
    lock(web, package_lock(registry.tarballs[:2], registry.url if resolved else None))
    assert web.refreshed()["fetched"] == 2
    assert held(web) == ["npm:@s/b@2.0.0 b-2.0.0.tgz", "npm:a@1.0.0 a-1.0.0.tgz"]
    asked = [path for path, _ in registry.requests]
    assert sorted(asked) == sorted(
        ["/a/-/a-1.0.0.tgz", "/@s/b/-/b-2.0.0.tgz", *([] if resolved else ["/a", "/@s%2Fb"])]
    )
    registry.requests.clear()
    assert web.refreshed()["changed"] is False
    assert registry.requests == []


def test_other_platforms_are_not_fetched(web: Project, registry: NpmRegistry) -> None:
    linux = make_tarball("linux", os=["linux"], cpu=["x64"])
    musl = make_tarball("musl", os=["linux"], libc=["musl"])
    mac = make_tarball("mac", os=["darwin"])
    registry.tarballs = [linux, musl, mac]
    lock(web, package_lock(registry.tarballs, registry.url, optional=True))
    web.refreshed()
    assert held(web) == ["npm:linux@1.0.0 linux-1.0.0.tgz"]


def test_integrity_that_only_the_registry_knows_is_asked_once(web: Project, registry: NpmRegistry) -> None:
    registry.tarballs = [make_tarball("a"), make_tarball("b")]
    berry = "__metadata:\n  version: 8\n" + "".join(
        f'\n"{name}@npm:^1.0.0":\n  version: 1.0.0\n  resolution: "{name}@npm:1.0.0"\n  checksum: 10c0/00\n'
        for name in "ab"
    )
    web.config.write_text(web.config.read_text().replace("package-lock.json", "yarn.lock"))
    (web.folder / "yarn.lock").write_text(berry)
    assert web.refreshed()["fetched"] == 2
    registry.requests.clear()
    web.config.write_text(web.config.read_text() + "extras = []\ngroups = []\n")
    assert (web.refreshed()["fetched"], registry.requests) == (0, [])


def test_sha1_alone_is_refused_until_it_is_allowed(web: Project, registry: NpmRegistry) -> None:
    old = make_tarball("old")
    registry.tarballs = [old, make_tarball("new")]
    weak = package_lock(registry.tarballs[:1], registry.url, integrity=sri(old.data, "sha1"))
    lock(web, weak)
    code, said = refused(web)
    assert (code, "allow_sha1" in said) == (11, True)
    use(web, registry, 'allow_sha1 = ["old"]')
    assert web.refreshed()["fetched"] == 1
    snapshot = web.layout.snapshots.current()
    assert snapshot is not None
    assert [a.sha256 for a in snapshot.artifacts] == [old.sha256]
    packages = json.loads(weak)["packages"] | {
        "node_modules/new": lock_entry(registry.tarballs[1], registry.url)
    }
    lock(web, json.dumps({"lockfileVersion": 3, "packages": packages}))
    assert web.refreshed()["fetched"] == 1, "what was accepted by sha1 is known again"


def test_sha1_that_is_allowed_is_still_checked(web: Project, registry: NpmRegistry) -> None:
    use(web, registry, 'allow_sha1 = ["old"]')
    registry.tarballs = [make_tarball("old")]
    lock(web, package_lock(registry.tarballs, registry.url, integrity=sri(b"other", "sha1")))
    assert refused(web)[0] == 20
    lock(web, package_lock(registry.tarballs, None, integrity=sri(b"other", "sha1")))
    assert refused(web)[0] == 20


def test_wrong_integrity(web: Project, registry: NpmRegistry) -> None:
    registry.tarballs = [make_tarball("a")]
    for place in (registry.url, None):
        lock(web, package_lock(registry.tarballs, place, integrity=sri(b"other", "sha512")))
        assert refused(web)[0] == 20
    assert list(web.layout.store.digests()) == []


def test_a_truncated_tarball(web: Project, registry: NpmRegistry) -> None:
    whole = make_tarball("a")
    registry.tarballs = [whole]
    lock(web, package_lock([whole], registry.url))

    def cut(answer: Answer) -> None:
        answer.send(200, whole.data[:-20], length=len(whole.data))
        answer.cut()

    registry.ranges = False
    registry.faults[whole.path] = cut
    assert refused(web)[0] == 23
    assert list(web.layout.store.digests()) == []


BAD_ENTRIES = {
    "parents": member("package/../../x", b"x"),
    "an absolute path": member("/etc/x", b"x"),
    "a symbolic link": member("package/x", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": member("package/x", kind=tarfile.LNKTYPE, link="package/index.js"),
    "a device": member("package/x", kind=tarfile.CHRTYPE),
    "a pipe": member("package/x", kind=tarfile.FIFOTYPE),
    "a drive": member("C:/x", b"x"),
    "parents of another system": member("package\\..\\..\\x", b"x"),
    "a second manifest": member("other/package.json", b'{"name": "x"}'),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_tarballs_that_could_do_harm(tmp_path: Path, case: str) -> None:
    tarball = make_tarball("a", more=[BAD_ENTRIES[case]])
    with pytest.raises(UnsafeArchiveError, match="a@1"):
        check(tarball, tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", gzip.compress(b"no archive", mtime=0), archive([]), make_tarball("b").data,
     make_tarball("a").data[:-30],
     archive([member("package/package.json", b"[" * 100_000)]),
     archive([member("package/package.json", b"{}")]),
     archive([member("package/package.json", b'"a"')])],
)  # fmt: skip
def test_what_is_not_this_package(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnsafeArchiveError):
        check(Tarball(name="a", version="1.0.0", data=data), tmp_path)


def test_a_bomb_ends_soon(tmp_path: Path) -> None:
    raw, _ = member("package/x")
    raw.size = 1 << 40
    data = gzip.compress(raw.tobuf(tarfile.PAX_FORMAT) + b"\0" * 100_000_000)
    started = time.monotonic()
    with pytest.raises(UnsafeArchiveError, match="no end"):
        check(Tarball(name="a", version="1.0.0", data=data), tmp_path)
    assert time.monotonic() - started < 2


def check(tarball: Tarball, folder: Path) -> None:
    (package,) = parse("package-lock.json", package_lock([tarball])).packages
    file = folder / "a.tgz"
    file.write_bytes(tarball.data)
    check_tarball(file, package)


def test_an_unsafe_tarball_is_not_kept(web: Project, registry: NpmRegistry) -> None:
    registry.tarballs = [make_tarball("a", more=[BAD_ENTRIES["parents"]])]
    lock(web, package_lock(registry.tarballs, registry.url))
    code, said = refused(web)
    assert (code, "package/../../x" in said) == (27, True)
    assert list(web.layout.store.digests()) == []
    assert list(web.layout.store.incoming.iterdir()) == []


def test_a_packument_of_another_package(web: Project, registry: NpmRegistry) -> None:
    registry.tarballs = [make_tarball("a")]
    registry.told = {"name": "b"}
    lock(web, package_lock(registry.tarballs))
    code, said = refused(web)
    assert (code, "another package: 'b'" in said) == (22, True)


@pytest.mark.parametrize(
    "body",
    [b"<html>please log in</html>", b"[]", b"{}", b'{"name": "a", "versions": [1]}', b"[" * 100_000, b"\xff"],
)
def test_an_answer_that_is_no_packument(web: Project, registry: NpmRegistry, body: bytes) -> None:
    registry.pages["/a"] = body
    lock(web, package_lock([make_tarball("a")]))
    assert refused(web)[0] == 22


@pytest.mark.parametrize("tarball", ["file:///etc/passwd", "ftp://x.example/a", "a.tgz", ""])
def test_places_that_a_registry_may_not_name(web: Project, registry: NpmRegistry, tarball: str) -> None:
    whole = make_tarball("a")
    dist = {"tarball": tarball, "integrity": whole.integrity}
    registry.pages["/a"] = json.dumps({"name": "a", "versions": {"1.0.0": {"dist": dist}}}).encode()
    lock(web, package_lock([whole]))
    assert refused(web)[0] == 22


def test_what_no_registry_has(web: Project, registry: NpmRegistry) -> None:
    lock(web, package_lock([make_tarball("gone")]))
    code, said = refused(web)
    assert (code, "of this name" in said) == (21, True)
    registry.tarballs = [make_tarball("gone", "2.0.0")]
    code, said = refused(web)
    assert (code, "this version" in said) == (21, True)


def test_retry_after_is_honoured(web: Project, registry: NpmRegistry) -> None:
    registry.tarballs = [make_tarball("a")]
    lock(web, package_lock(registry.tarballs))
    times: list[float] = []

    def busy(answer: Answer) -> None:
        times.append(time.monotonic())
        if answer.count == 1:
            answer.send(429, headers={"Retry-After": "2"})
        else:
            answer.send(200, answer.body or b"")

    registry.faults["/a"] = busy
    assert web.refreshed()["fetched"] == 1
    assert times[1] - times[0] >= 2


def test_credentials_of_npmrc_go_to_their_place_only(project: Project, registry: NpmRegistry) -> None:
    with NpmRegistry() as private:
        registry.tarballs = [make_tarball("a")]
        private.tarballs = [make_tarball("@own/b")]
        host = private.url.removeprefix("http:")
        npmrc = f"registry={registry.url}/\n@own:registry={private.url}/\n{host}/:_authToken=${{TOKEN}}\n"
        use(project, registry, npmrc=npmrc)
        project.environment["TOKEN"] = "open-sesame"
        lock(project, package_lock([*registry.tarballs, *private.tarballs]))
        ended = project.mirror("refresh")
    assert ended.returncode == 0, ended.stderr
    assert {headers.get("Authorization") for _, headers in private.requests} == {"Bearer open-sesame"}
    assert {headers.get("Authorization") for _, headers in registry.requests} == {None}
    files = [f for f in project.layout.root.rglob("*") if f.is_file()]
    assert not any(b"open-sesame" in file.read_bytes() for file in files)
    assert "open-sesame" not in ended.stdout + ended.stderr


def test_install_scripts_are_not_run(web: Project, registry: NpmRegistry) -> None:
    trace = web.folder / "trace"
    scripts = dict.fromkeys(("preinstall", "install", "postinstall", "prepare"), f"touch {trace}")
    registry.tarballs = [make_tarball("a", scripts=scripts)]
    lock(web, package_lock(registry.tarballs, registry.url))
    web.refreshed()
    assert not trace.exists()


def test_without_npm_no_registry_is_known(web: Project) -> None:
    python = Path(web.command()[0]).parent
    web.environment["PATH"] = str(python)
    lock(web, package_lock([make_tarball("b")]))
    code, said = refused(web)
    assert (code, "no registry is known" in said) == (22, True)
