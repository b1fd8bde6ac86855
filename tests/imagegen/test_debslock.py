from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.debslock import Deb, DebsLock, LockedBase, deb_of, parse
from imagegen.errors import BaseError
from lockfiles.errors import LockstockError

GIT = Deb(file="git_1%3a2.39.5-0+deb12u3_amd64.deb", size=7264380, sha256="a" * 64)
ADDUSER = Deb(file="adduser_3.134_all.deb", size=183272, sha256="b" * 64)
BASE = LockedBase(suite="bookworm", architecture="amd64", packages=("git",), debs=(ADDUSER, GIT))
TEXT = f"""\
# Written by `imagegen lock-base`; bases are made from exactly these packages.
version = 1

[[base]]
suite = "bookworm"
architecture = "amd64"
packages = ["git"]
debs = [
  {{ file = "adduser_3.134_all.deb", size = 183272, sha256 = "{"b" * 64}" }},
  {{ file = "git_1%3a2.39.5-0+deb12u3_amd64.deb", size = 7264380, sha256 = "{"a" * 64}" }},
]
"""


def test_a_file_says_what_it_is() -> None:
    assert (GIT.name, GIT.version, GIT.architecture) == ("git", "1:2.39.5-0+deb12u3", "amd64")


def test_the_text_is_sorted_and_read_back() -> None:
    lock = DebsLock((BASE,))

    assert lock.text() == TEXT
    assert parse("debs.lock", TEXT) == lock
    assert DebsLock((replace(BASE, debs=(GIT, ADDUSER)),)).text() == TEXT


def test_a_base_is_found_by_all_that_was_asked_for() -> None:
    lock = DebsLock((BASE,))

    assert lock.find("bookworm", "amd64", ["git", "git"]) == BASE
    assert lock.find("bookworm", "arm64", ["git"]) is None
    assert lock.find("bookworm", "amd64", ["git", "less"]) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("version = 1", "version = 2", "version: is not 1"),
        (
            '"adduser_3.134_all.deb"',
            '"../adduser_3.134_all.deb"',
            "is not the name of a Debian package's file",
        ),
        (
            '"adduser_3.134_all.deb"',
            '"adduser_3.134/x_all.deb"',
            "is not the name of a Debian package's file",
        ),
        ('"adduser_3.134_all.deb"', '"git_2_all.deb"', "git is in it twice"),
        ("b" * 64, "B" * 64, "is not a SHA-256"),
        ("size = 183272", "size = 0", "0 bytes are too few"),
        ('suite = "bookworm"', 'suite = "book worm"', "is not a name that Debian uses"),
        ('["git"]', '["--git"]', "is not a name that Debian uses"),
        ("debs = [", "more = 1\ndebs = [", "unknown key"),
    ],
)
def test_what_is_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(BaseError, match=r"^[^\0]*" + reason.replace("?", r"\?")):
        parse("debs.lock", TEXT.replace(old, new))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(LockstockError):
        assert parse("debs.lock", text).text()


VERSIONS = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,10}", fullmatch=True)
DEBS = st.builds(
    lambda name, version, size, digit: deb_of(
        f"{name}_{quote(version, safe='+~').replace('%3A', '%3a')}_amd64.deb", size, digit * 64
    ),
    st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True),
    VERSIONS,
    st.integers(1, 1 << 31),
    st.sampled_from("0123456789abcdef"),
)


@given(st.lists(DEBS, unique_by=lambda deb: deb.name))
def test_every_lock_is_read_as_it_was_written(debs: list[Deb]) -> None:
    base = LockedBase(suite="sid", architecture="arm64", packages=(), debs=tuple(debs))
    text = DebsLock((base,)).text()

    assert parse("debs.lock", text).text() == text
    assert set(parse("debs.lock", text).bases[0].debs) == set(debs)
