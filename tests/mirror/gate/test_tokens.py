"""Tokens: narrowed by anyone, widened by no one."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate import audit
from mirror.gate.errors import GateError, LogError, TokenError
from mirror.gate.keys import GateHome
from mirror.gate.note import Verifier
from mirror.gate.tokenlog import TOKENS, token_log
from mirror.gate.tokens import PREFIX, Context, Token, caveat, mint, narrow, parse, pick, verify

KEYS = {"k1": b"1" * 32, "k2": b"2" * 32}
LOCK, POLICY = "a" * 64, "b" * 64
NOW = Context(now=1000, operation="tunnel", lock=LOCK, policy=POLICY)


def token(*caveats: str) -> Token:
    return mint("k1", KEYS["k1"], task="build-7", expires=2000, caveats=caveats)


def test_a_token_gives_its_task() -> None:
    assert verify(parse(str(token())), KEYS, NOW) == "build-7"


def test_all_caveats_that_hold() -> None:
    full = token(caveat("lock", LOCK), caveat("policy", POLICY), caveat("operations", "mirror,tunnel"))
    assert verify(full, KEYS, NOW) == "build-7"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"now": 2000}, "expired"), ({"now": 1e12}, "expired"), ({"lock": "c" * 64}, "another lock"),
        ({"lock": ""}, "another lock"),
        ({"policy": "c" * 64}, "another policy"), ({"policy": ""}, "another policy"),
        ({"operation": "route"}, "this operation"), ({"operation": ""}, "this operation"),
        ({"revoked": frozenset({"build-7"})}, "revoked"),
    ],
)  # fmt: skip
def test_each_caveat_denies(change: dict[str, object], reason: str) -> None:
    full = token(caveat("lock", LOCK), caveat("policy", POLICY), caveat("operations", "mirror,tunnel"))
    with pytest.raises(TokenError, match=reason):
        verify(full, KEYS, replace(NOW, **change))  # type: ignore[arg-type]  # a table of changes


def test_narrowing_needs_no_key_and_holds() -> None:
    narrowed = narrow(parse(str(token())), (caveat("operations", "mirror"), caveat("expires", "1500")))
    assert verify(narrowed, KEYS, replace(NOW, operation="mirror")) == "build-7"
    with pytest.raises(TokenError, match="operation"):
        verify(narrowed, KEYS, NOW)
    with pytest.raises(TokenError, match="expired"):
        verify(narrowed, KEYS, replace(NOW, operation="mirror", now=1600))


def test_narrowing_never_widens() -> None:
    later = narrow(
        token(), (caveat("expires", "9999"), caveat("operations", "mirror"), caveat("operations", "tunnel"))
    )
    for operation in ("mirror", "tunnel"):
        with pytest.raises(TokenError):
            verify(later, KEYS, replace(NOW, operation=operation))
    with pytest.raises(TokenError, match="expired"):
        verify(narrow(token(), (caveat("expires", "9999"),)), KEYS, replace(NOW, now=2500))
    with pytest.raises(TokenError, match="one task"):
        verify(narrow(token(), (caveat("task", "other"),)), KEYS, NOW)


def test_an_unknown_caveat_denies() -> None:
    with pytest.raises(TokenError, match="not known"):
        verify(narrow(token(), ("weather = fine",)), KEYS, NOW)


def test_no_caveat_can_be_taken_away_or_changed() -> None:
    full = token(caveat("operations", "mirror"))
    for kept in (full.caveats[:-1], full.caveats[1:], (), tuple(reversed(full.caveats))):
        with pytest.raises(TokenError, match="not made by this gate"):
            verify(replace(full, caveats=kept), KEYS, NOW)
    with pytest.raises(TokenError, match="not made by this gate"):
        verify(replace(full, caveats=("task = other", *full.caveats[1:])), KEYS, NOW)


def test_another_key_or_none() -> None:
    with pytest.raises(TokenError, match="retired"):
        verify(token(), {"k2": KEYS["k2"]}, NOW)
    with pytest.raises(TokenError, match="not made"):
        verify(token(), {"k1": KEYS["k2"]}, NOW)
    with pytest.raises(TokenError):
        verify(mint("k9", b"", task="x", expires=2000), {}, NOW)


def test_a_token_without_task_or_end_is_none() -> None:
    import hmac
    from hashlib import sha256

    root = hmac.digest(b"lockstock gate token v1", KEYS["k1"], sha256)
    bare = Token(key="k1", nonce="n", caveats=(), signature=hmac.digest(root, b"k1 n", sha256))
    with pytest.raises(TokenError, match="exactly one task"):
        verify(bare, KEYS, NOW)
    with pytest.raises(TokenError, match="exactly one task"):
        verify(narrow(bare, ("task = x",)), KEYS, NOW)
    assert verify(narrow(bare, ("task = x", "expires = 2000")), KEYS, NOW) == "x"


@given(st.integers(0, 10_000), st.integers(1, 127))
def test_no_character_of_a_token_may_change(place: int, change: int) -> None:
    text = str(mint("k1", KEYS["k1"], task="t", expires=2000))
    place %= len(text)
    changed = text[:place] + chr(ord(text[place]) ^ change) + text[place + 1 :]
    with pytest.raises(TokenError):
        verify(parse(changed), KEYS, NOW)


@given(
    st.one_of(
        st.text(max_size=50), st.binary(max_size=80).map(lambda b: base64.urlsafe_b64encode(b).decode())
    )
)
def test_hostile_text(text: str) -> None:
    with pytest.raises(TokenError):
        parse(PREFIX + text)
    with pytest.raises(TokenError):
        parse(text)


@pytest.mark.parametrize(
    "content",
    [
        [], {}, [1, "n", [], "00"], ["k", 2, [], "00"], ["k", "n", "task = x", "00"], ["k", "n", [1], "00"],
        ["k", "n", [], "zz"], ["k", "n", ["no equals"], "00"], ["k", "n", ["a = \n"], "00"],
        None, ["k", "n", [[]], ""], ["\ud800", "n", [], ""], ["k", "\u00e9", [], ""],
    ],
)  # fmt: skip
def test_hostile_content(content: object) -> None:
    packed = json.dumps(content, separators=(",", ":")).encode()
    with pytest.raises(TokenError):
        parse(PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("="))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weather", "fine"),
        ("expires", "tomorrow"),
        ("lock", "abc"),
        ("operations", "mirror,all"),
        ("task", "A b"),
    ],
)
def test_caveats_that_mean_nothing_are_not_written(name: str, value: str) -> None:
    with pytest.raises(TokenError):
        caveat(name, value)


def test_the_carriers() -> None:
    text = str(token())
    basic = base64.b64encode(f"any:{text}".encode()).decode()
    user = base64.b64encode(f"{text}:".encode()).decode()
    for header in (f"Bearer {text}", f"bearer  {text}", f"Basic {basic}", f"BASIC {user}"):
        assert pick(header) == text
    for header in (
        "",
        "Basic",
        "Basic !!!",
        "Digest x",
        f"{text}",
        "Basic " + base64.b64encode(b"\xff").decode(),
    ):
        assert pick(header) in (None, "")


def test_keys_rotate_with_overlap(tmp_path: Path) -> None:
    home = GateHome(tmp_path / "gate")
    first = home.newest_key(0)
    assert home.newest_key(0) == first
    second = home.rotate(100, overlap=50)
    assert [key.id for key in home.token_keys(120)] == [first.id, second.id]
    assert [key.id for key in home.token_keys(150)] == [second.id]
    assert home.newest_key(120) == second
    third = home.rotate(130, overlap=1000)
    assert [key.id for key in home.token_keys(149)] == [first.id, second.id, third.id]
    assert [key.id for key in home.token_keys(151)] == [second.id, third.id]
    for path in home.root.iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_revocation_is_by_task(tmp_path: Path) -> None:
    home = GateHome(tmp_path)
    assert home.revoked() == frozenset()
    home.revoke("b")
    home.revoke("a")
    assert home.revoked() == {"a", "b"}


def test_the_signing_key_is_made_once_and_secret(tmp_path: Path) -> None:
    home = GateHome(tmp_path / "gate")
    with pytest.raises(GateError):
        home.verifier()
    assert home.signer().public == home.signer().public
    assert home.verifier() == home.signer().verifier
    assert (home.root / "log.key").stat().st_mode & 0o077 == 0


def test_damaged_keys_are_an_error(tmp_path: Path) -> None:
    home = GateHome(tmp_path)
    (tmp_path / "log.key").write_text("nonsense")
    (tmp_path / "token.keys").write_text("[{}]")
    with pytest.raises(GateError):
        home.signer()
    with pytest.raises(GateError):
        home.token_keys(0)


def events(home: GateHome) -> list[dict[str, Any]]:
    """Give the events of the log of tokens, which must verify and be sealed."""
    found: list[dict[str, Any]] = []
    known = home.verifier()
    verified = audit.verify(
        home.log(TOKENS), Verifier(f"{known.name}/{TOKENS}", known.public), each=found.append
    )
    assert verified.unsealed == 0
    return found


def test_token_events_wait_for_each_other(tmp_path: Path) -> None:
    home = GateHome(tmp_path)

    def one(number: int) -> None:
        with token_log(home) as log:
            home.revoke(f"t{number}")
            log("revoke", f"t{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    tasks = {f"t{number}" for number in range(24)}
    assert {event["task"] for event in events(home)} == home.revoked() == tasks


def test_a_log_of_tokens_that_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.gate.tokenlog._WAIT", 0.1)
    home = GateHome(tmp_path)
    with token_log(home), pytest.raises(LogError, match="another process writes"), token_log(home):
        pytest.fail("it opened")


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: GateHome(tmp_path).signer().to_text(), range(24)))
    assert len(made) == 1
    (tmp_path / "log.vkey").unlink()  # as a kill between the two leaves it
    assert GateHome(tmp_path).signer().verifier == GateHome(tmp_path).verifier()
