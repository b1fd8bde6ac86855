from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from imagegen.apt import Source, for_suite, parse_deb822, parse_one_line, read_host

ARCHIVE = "http://archive.example/debian"
DEB822 = f"""\
# the distribution
Types: deb deb-src
URIs: {ARCHIVE}
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
Check-Valid-Until: no

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_is_read_by_stanza() -> None:
    first, second = parse_deb822(DEB822)

    assert first == Source(
        uris=(ARCHIVE,),
        suites=("bookworm", "bookworm-updates", "bookworm-backports"),
        components=("main", "contrib"),
        options=(("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg"),),
    )
    assert second.options == (("Check-Valid-Until", "no"),)


def test_one_line_style_is_read_by_line() -> None:
    text = f"""\
# a comment
deb {ARCHIVE} bookworm main contrib # and another
deb-src {ARCHIVE} bookworm main
deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://security.example/ bookworm/updates main
deb
nonsense here
"""
    assert list(parse_one_line(text)) == [
        Source(uris=(ARCHIVE,), suites=("bookworm",), components=("main", "contrib")),
        Source(
            uris=("http://security.example/",),
            suites=("bookworm/updates",),
            components=("main",),
            options=(("Signed-By", "/k.gpg"), ("Trusted", "yes")),
        ),
    ]


def test_a_suite_keeps_its_companions_only() -> None:
    kept = for_suite(parse_deb822(DEB822), "bookworm")

    assert [source.suites for source in kept] == [("bookworm", "bookworm-updates"), ("bookworm-security",)]


def test_a_suite_that_is_not_there_gives_nothing() -> None:
    assert for_suite(parse_deb822(DEB822), "trixie") == ()
    only_security = parse_one_line("deb http://security.example/ trixie-security main")
    assert for_suite(only_security, "trixie") == ()


def test_other_vendors_are_left_out() -> None:
    text = f"""\
deb {ARCHIVE} bookworm main
deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example/apt bookworm main
deb [signed-by=/usr/share/keyrings/vendor-archive-keyring.gpg] https://vendor.example/apt bookworm main
deb https://vendor.example/docker bookworm stable
deb https://vendor.example/flat ./
"""
    assert [source.uris for source in for_suite(parse_one_line(text), "bookworm")] == [(ARCHIVE,)]


def test_a_key_within_a_source_survives() -> None:
    text = (
        f"Types: deb\nURIs: {ARCHIVE}\nSuites: bookworm\nComponents: main\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    (source,) = for_suite(parse_deb822(text), "bookworm")

    assert source.stanza() == text.replace("Signed-By:\n", "Signed-By: \n")
    assert list(parse_deb822(source.stanza())) == [source]


def test_the_host_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(f"deb {ARCHIVE} bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.list.save").write_text("deb http://old.example x main\n")
    (tmp_path / "sources.list.d" / "d.list").write_bytes(b"\xff\xfe")

    assert [len(source.suites) for source in read_host(tmp_path)] == [1, 3, 1]
    assert read_host(tmp_path / "nothing") == ()


WORDS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=12)


@given(st.text())
def test_any_text_is_read_without_a_fault(text: str) -> None:
    for source in [*parse_deb822(text), *parse_one_line(text)]:
        assert isinstance(source.stanza(), str)


@given(uris=st.lists(WORDS, min_size=1), suites=st.lists(WORDS, min_size=1), components=st.lists(WORDS))
def test_a_stanza_is_read_as_it_was_written(
    uris: list[str], suites: list[str], components: list[str]
) -> None:
    source = Source(uris=tuple(uris), suites=tuple(suites), components=tuple(components))

    assert list(parse_deb822(source.stanza())) == [source]
