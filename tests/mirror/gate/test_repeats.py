"""Denials that repeat themselves: the log stays small, and no number is lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate import core
from mirror.gate.audit import verify
from mirror.gate.core import Identity
from mirror.gate.http1 import Head
from mirror.gate.repeats import Repeats
from mirror.gate.reports import OTHERS, blocked
from tests.mirror.gate.harness import SIGNER, Running, running


def denial(host: str, kind: str = "host") -> dict[str, Any]:
    return {"event": "decision", "verdict": "deny", "kind": kind, "host": host, "port": 443}


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(["host", "port"])), max_size=3000))
def test_every_denial_is_written_or_counted(asked: list[tuple[int, str]]) -> None:
    repeats = Repeats()
    written: list[Mapping[str, Any]] = []
    for number, kind in asked:
        fields = denial(f"h{number}.example", kind)
        if repeats.admit(fields):
            written.append(fields)
    written += repeats.drain()
    found = Counter(r["kind"] for r in written for _ in range(r.get("times", 1)))
    assert found == Counter(kind for _, kind in asked)
    assert repeats.drain() == []


def test_a_flood_of_hosts_that_all_differ_is_bounded() -> None:
    repeats = Repeats()
    written = sum(repeats.admit(denial(f"h{number}.example")) for number in range(100_000))
    sums = repeats.drain()
    assert written + len(sums) < 600
    assert written + sum(one["times"] for one in sums) == 100_000
    (others,) = (one for one in sums if one.get("others"))
    assert "host" not in others
    assert {b.target: b.times for b in blocked(sums)}[OTHERS] == others["times"]


async def _hammer(gate: Running, times: int, request: bytes) -> None:
    """Ask again and again, on connections of their own, as a denied client must."""
    for _ in range(times):
        assert b"403" in (await gate.send(request))[:20]


@pytest.mark.anyio
async def test_a_log_does_not_grow_with_what_is_denied(tmp_path: Path) -> None:
    async with running(tmp_path, "") as gate:
        await _hammer(gate, 300, b"CONNECT docs.example:443 HTTP/1.1\r\nHost: docs.example:443\r\n\r\n")
        before = gate.records()
        assert len(before) < 20
    records: list[dict[str, Any]] = []
    verify(gate.log.path, SIGNER.verifier, each=records.append)
    (found,) = blocked(records)
    assert (found.target, found.times) == ("docs.example:443", 300)
    assert [r["event"] for r in records[-2:]] == ["decision", "stop"]
    assert records[-2]["times"] == 300 - (len(before) - 1)


@pytest.mark.anyio
async def test_a_log_does_not_grow_with_tokens_that_are_narrowed_again_and_again(tmp_path: Path) -> None:
    def identify(head: Head, _: str) -> Identity:
        return Identity("ci", "k/1", (f"expires = {head.get('x-number')}",))

    async with running(tmp_path, "", identify=identify) as gate:
        for number in range(100):
            head = f"GET http://docs.example/ HTTP/1.1\r\nHost: docs.example\r\nX-Number: {number}\r\n\r\n"
            await gate.send(head.encode())
        assert len(gate.records("token")) == 32
    records: list[dict[str, Any]] = []
    verify(gate.log.path, SIGNER.verifier, each=records.append)
    *whole, rest = [record for record in records if record["event"] == "token"]
    assert [record["caveats"] for record in whole] == [[f"expires = {number}"] for number in range(32)]
    assert (rest["action"], rest["task"], rest["times"]) == ("use", "ci", 68)


@pytest.mark.anyio
async def test_sums_are_written_at_the_end_of_each_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "WINDOW", 0.5)
    async with running(tmp_path, "") as gate:
        for _ in range(2):
            await _hammer(gate, 20, b"GET http://docs.example/ HTTP/1.1\r\nHost: docs.example\r\n\r\n")
            await asyncio.sleep(0.7)
        sums = [record["times"] for record in gate.records("decision") if "times" in record]
        assert len(sums) >= 2
        assert len([r for r in gate.records("decision") if "times" not in r]) + sum(sums) == 40


@pytest.mark.anyio
async def test_what_a_rate_denies_leaves_one_record_and_no_allowing_one(tmp_path: Path) -> None:
    async with running(tmp_path, 'mirror = true\n[task]\nrate = "1/h"\nburst = 1') as gate:
        await gate.ask("GET", "/simple/")
        for _ in range(50):
            assert (await gate.ask("GET", "/simple/"))[0] == 429
        verdicts = Counter(json.dumps([r["verdict"], r["kind"]]) for r in gate.records("decision"))
        assert verdicts['["allow", ""]'] == 1
        assert verdicts['["deny", "rate"]'] < 20
