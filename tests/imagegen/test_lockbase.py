"""Bases from debs.lock: chosen by the real apt, stocked, and bootstrapped without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen import bases, debs
from imagegen.aptroot import native_architecture
from imagegen.bases import debs_store, locked_base
from imagegen.debslock import parse
from imagegen.errors import BaseError
from imagegen.live import Silent
from imagegen.lockbase import lock_bases
from imagegen.rootfs import read_rootfs
from imagegen.spec import DebianBase, find_image
from lockfiles.errors import ConfigError
from mirror import config as configuration
from mirror.config import Config
from mirror.errors import DigestMismatchError

pytestmark = [pytest.mark.network, pytest.mark.root]
CONFIG = """\
[targets]
python = ["3.11"]
[locks.app]
path = "requirements.txt"
[images.dev]
base = "debian:bookworm"
locks = ["app"]
[images.tools]
base = "debian:bookworm"
locks = ["app"]
apt = ["less"]
"""
BASE = DebianBase(suite="bookworm")
MAKE = """
import sys
from pathlib import Path
from imagegen import bases
from imagegen.live import Silent
from imagegen.spec import DebianBase
from mirror import config as configuration
config, base = configuration.load(Path("lockstock.toml")), DebianBase(suite="bookworm")
locked, store = bases.locked_base(config, base), bases.debs_store(config)
print(bases.make_locked(base, locked, store, Path(sys.argv[1]), Silent()).sha256)
"""


def configured(folder: Path, text: str = CONFIG) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").touch()
    (folder / "lockstock.toml").write_text(text)
    return configuration.load(folder / "lockstock.toml")


@pytest.fixture(scope="module")
def locked(cache: Path) -> Config:
    """A project whose lock, stock and base outlive test runs."""
    config = configured(cache / "locked")
    lock = debs.read_lock(config.file.parent)
    if not (lock and lock.find(BASE.suite, native_architecture(), bases.wanted(BASE))):
        lock_bases(config, ["dev"], Silent())
    return config


@pytest.fixture
def copied(locked: Config, tmp_path: Path) -> Config:
    """The same project to be changed; its stock lies elsewhere, linked."""
    config = configured(tmp_path / "project")
    shutil.copyfile(locked.file.parent / "debs.lock", config.file.parent / "debs.lock")
    shutil.copytree(
        debs_store(locked).root,
        debs_store(config).root,
        copy_function=os.link,
        ignore=shutil.ignore_patterns("incoming"),
    )
    return config


def made(config: Config, folder: Path, *wrapped: str, environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(
        [*wrapped, sys.executable, "-c", MAKE, str(folder)],
        cwd=config.file.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


class TestLock:
    def test_it_holds_the_whole_system_and_names_no_host(self, locked: Config) -> None:
        text = (locked.file.parent / "debs.lock").read_text()
        (base,) = parse("debs.lock", text).bases

        assert base.packages == bases.wanted(BASE)
        names = {deb.name for deb in base.debs}
        assert {"dpkg", "apt", "libc6", "git", "python3.11-minimal"} <= names
        assert "://" not in text
        assert all(debs_store(locked).holds(deb.sha256) for deb in base.debs)

    def test_other_images_keep_their_lines_and_lines_of_none_go(self, copied: Config) -> None:
        file = copied.file.parent / "debs.lock"
        before = file.read_text()

        (tools,) = lock_bases(copied, ["tools"], Silent()).debian

        assert "less" in tools.base.packages
        assert any(name.startswith("less_") for name in tools.fresh)
        dev = before.partition("[[base]]")[2]
        assert dev in file.read_text()
        assert file.read_text().count("[[base]]") == 2
        (only,) = lock_bases(
            configured(copied.file.parent, CONFIG.partition("[images.tools]")[0]), (), Silent()
        ).debian
        assert file.read_text().count("[[base]]") == 1
        assert only.base.packages == bases.wanted(BASE)

    def test_a_base_that_the_lock_does_not_have(self, copied: Config) -> None:
        tools = find_image(copied, "tools").base
        assert isinstance(tools, DebianBase)

        with pytest.raises(ConfigError, match="with exactly ca-certificates, git, less,") as caught:
            locked_base(copied, tools)

        assert "imagegen lock-base" in caught.value.hint

    def test_without_the_file_nothing_is_locked(self, tmp_path: Path) -> None:
        assert locked_base(configured(tmp_path), BASE) is None

    def test_a_suite_or_package_that_is_not_there(self, tmp_path: Path) -> None:
        config = configured(tmp_path, CONFIG.replace("debian:bookworm", "debian:nosuch"))
        with pytest.raises(BaseError, match="this host's apt sources do not have nosuch"):
            lock_bases(config, (), Silent())

        config = configured(tmp_path, CONFIG.replace('"less"', '"no-such-package"'))
        with pytest.raises(BaseError, match="apt: Unable to locate package no-such-package"):
            lock_bases(config, ["tools"], Silent())
        assert not (tmp_path / "debs.lock").exists()

    def test_no_images(self, tmp_path: Path) -> None:
        text = CONFIG.partition("[images.dev]")[0]

        with pytest.raises(ConfigError, match="nothing to lock"):
            lock_bases(configured(tmp_path, text), (), Silent())


@pytest.fixture(scope="module")
def once(locked: Config) -> str:
    return made(locked, locked.root / "bases")


class TestBase:
    def test_one_digest_without_a_network(self, locked: Config, once: str, tmp_path: Path) -> None:
        environment = {"TZ": "Asia/Kathmandu", "TMPDIR": "/var/tmp", "LC_ALL": "C"}

        before = os.umask(0o077)
        try:
            again = made(locked, tmp_path / "bases", "unshare", "--net", "--", environment=environment)
        finally:
            os.umask(before)

        assert again == once

    def test_the_same_in_a_user_namespace(self, locked: Config, once: str, tmp_path: Path) -> None:
        """As it is made where whoever builds is not root."""
        program = tmp_path / "mmdebstrap"
        program.write_text(
            f'#!/bin/bash\nset -e\n[[ " $* " == *" --mode=auto "* ]]\necho made > {tmp_path}/called\n'
            f'exec {shutil.which("mmdebstrap")} "${{@/#--mode=auto/--mode=unshare}}"\n'
        )
        program.chmod(0o755)

        again = made(locked, tmp_path / "bases", environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})

        assert (tmp_path / "called").exists()
        assert again == once

    def test_it_has_exactly_the_locked_packages(self, locked: Config, once: str) -> None:
        base = locked_base(locked, BASE)
        assert base
        (tarball,) = (locked.root / "bases").glob(f"*{once}.tar")

        assert dict(read_rootfs(tarball).packages) == {deb.name: deb.version for deb in base.debs}


class TestStock:
    def test_what_is_lost_is_fetched_again(self, copied: Config) -> None:
        base, store = locked_base(copied, BASE), debs_store(copied)
        assert base
        lost = next(deb for deb in base.debs if deb.name == "adduser")
        store.remove(lost.sha256)

        debs.bring(base, store, Silent())

        assert store.holds(lost.sha256)

    def test_what_the_archive_has_no_more(self, copied: Config) -> None:
        file = copied.file.parent / "debs.lock"
        text = file.read_text()
        (old,) = (deb for deb in parse("x", text).bases[0].debs if deb.name == "adduser")
        file.write_text(text.replace(old.file, "adduser_0.1_all.deb").replace(old.sha256, "0" * 64))

        with pytest.raises(
            BaseError, match=r"lacks 1 package of debs.lock, adduser_0.1_all.deb first"
        ) as caught:
            bases.make_locked(
                BASE, locked_base(copied, BASE), debs_store(copied), copied.root / "b", Silent()
            )  # type: ignore[arg-type]

        assert "imagegen lock-base" in caught.value.hint

    def test_an_archive_with_other_bytes(self, copied: Config) -> None:
        file = copied.file.parent / "debs.lock"
        text = file.read_text()
        (old,) = (deb for deb in parse("x", text).bases[0].debs if deb.name == "adduser")
        file.write_text(text.replace(old.sha256, "0" * 64))
        base = locked_base(copied, BASE)
        assert base

        with pytest.raises(DigestMismatchError):
            debs.bring(base, debs_store(copied), Silent())

    def test_a_damaged_package_is_not_used(self, copied: Config) -> None:
        base, store = locked_base(copied, BASE), debs_store(copied)
        assert base
        held = store.path(base.debs[0].sha256)
        data = held.read_bytes()
        held.unlink()
        held.write_bytes(data[:-1] + b"x")

        with pytest.raises(BaseError, match="damaged in the mirror"), debs.archive(base, store):
            pass
