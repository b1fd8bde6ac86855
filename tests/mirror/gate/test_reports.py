"""Reports, replay and tightening: what they say of a history."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.core import describe
from mirror.gate.hosts import HostError
from mirror.gate.policy import Policy, answer, decide
from mirror.gate.policyfile import parse_policy
from mirror.gate.replay import decide_again, request_of, tighten, to_toml
from mirror.gate.reports import blocked, missing, summary, to_html, touched
from mirror.gate.requests import read_request

POLICY = """
mirror = true
[[allow]]
host = "*.docs.example"
ports = [443, 8443]
[[allow]]
host = "api.example"
ports = [80, 443]
rate = "90/m"
burst = 7
sent = 100
address = "10.0.0.7"
[[allow]]
host = "*.cdn.example"
ports = [443]
received = 1000
[[allow]]
host = "unused.example"
ports = [443]
[[deny]]
host = "bad.docs.example"
[[route]]
name = "staging"
upstream = "https://staging.example:8443/base"
methods = ["DELETE", "GET"]
paths = ["/v1/"]
credential = { env = "S", scheme = "Bearer" }
[[route]]
name = "unused"
upstream = "https://unused.example"
[task]
rate = "10/s"
burst = 20
"""
HOSTS = [
    "a.docs.example", "b.docs.example", "bad.docs.example", "api.example", "x.cdn.example",
    "y.cdn.example", "unused.example", "other.example",
]  # fmt: skip
LINES = [
    *(("CONNECT", f"{host}:{port}") for host in HOSTS for port in (443, 8443, 80)),
    ("GET", "http://api.example/x"), ("GET", "/simple/idna/"), ("PUT", "/simple/"),
    ("GET", "/route/staging/v1/a"), ("DELETE", "/route/staging/v1/a"), ("GET", "/route/staging/v2"),
    ("GET", "/route/unused/"), ("CONNECT", "10.0.0.1:443"), ("CONNECT", "[::1]:443"),
]  # fmt: skip


def policy() -> Policy:
    return parse_policy("p.toml", POLICY, {})


def recorded(lines: list[tuple[str, str]], by: Policy, task: str = "t") -> list[dict[str, Any]]:
    """Make the records that a gate writes of these requests."""
    records = []
    for number, (method, target) in enumerate(lines):
        request = read_request(method, target)
        decision = decide(by, request)
        records.append(
            {
                "event": "decision", "task": task, "policy": by.digest, "stage": "policy", "seq": number,
                "verdict": decision.verdict.value, "rule": decision.rule, "kind": decision.kind.value,
                "reason": decision.reason, "ask": decision.ask, **describe(request),
            }
        )  # fmt: skip
    return json.loads(json.dumps(records))  # type: ignore[no-any-return]  # as they come out of a log


def test_a_replay_by_the_same_policy_finds_nothing() -> None:
    assert decide_again(recorded(LINES, policy()), policy()) == ()


def test_a_replay_tells_what_would_have_differed() -> None:
    stricter = parse_policy("s.toml", POLICY.replace('"*.docs.example"', '"a.docs.example"'), {})
    differences = decide_again(recorded([*LINES, *LINES], policy()), stricter)
    assert {(d.target, d.was, d.now, d.times) for d in differences} == {
        ("CONNECT b.docs.example:443", "allow", "deny", 2),
        ("CONNECT b.docs.example:8443", "allow", "deny", 2),
    }
    wider = decide_again(recorded(LINES, stricter), policy())
    assert {d.now for d in wider} == {"allow"}


@given(st.lists(st.sampled_from(LINES), max_size=30), st.lists(st.sampled_from(LINES), max_size=30))
def test_tightening_keeps_history_and_adds_nothing(
    history: list[tuple[str, str]], others: list[tuple[str, str]]
) -> None:
    before = policy()
    records = recorded(history, before)
    tightened = tighten(records, before)
    after = parse_policy(f"{tightened.policy.name}.toml", to_toml(tightened.policy), {})
    assert not [d for d in decide_again(records, after) if d.now == "deny"]
    for method, target in others:
        mine, old = answer(after, method, target)[1], answer(before, method, target)[1]
        assert old.allowed or not mine.allowed
        if mine.allowed and (grant := after.granted(mine.rule)):
            was = before.granted(old.rule)
            assert was is not None
            assert (grant.address, grant.limits) == (was.address, was.limits)


def test_what_tightening_proposes() -> None:
    hosts = ("a.docs.example:443", "x.cdn.example:443", "y.cdn.example:443")
    history = [*(("CONNECT", host) for host in hosts), ("GET", "/route/staging/v1/a")]
    tightened = tighten(recorded(history * 3, policy()), policy())
    assert [str(allow.pattern) for allow in tightened.policy.allows] == ["a.docs.example", "*.cdn.example"]
    assert tightened.policy.routes[0].methods == ("GET",)
    assert not tightened.policy.mirror
    assert tightened.unused == (
        "mirror",
        "allow[1] api.example",
        "allow[3] unused.example",
        "route[1] unused",
    )
    assert {use.rule: use.times for use in tightened.uses}["allow[0] *.docs.example"] == 3


def test_toml_reads_as_the_same_policy() -> None:
    assert parse_policy("p.toml", to_toml(policy()), {}).digest == policy().digest


@given(st.integers(1, 9_999_999), st.sampled_from("smh"))
def test_every_rate_is_written_so_that_it_is_read_again(count: int, unit: str) -> None:
    before = parse_policy("p.toml", f'[task]\nrate = "{count}/{unit}"', {})
    assert parse_policy("p.toml", to_toml(before), {}).limits == before.limits


@pytest.mark.parametrize("record", [{"event": "served"}, {"event": "decision", "stage": "outcome"}])
def test_other_records_are_no_requests(record: dict[str, Any]) -> None:
    assert request_of(record) is None


@given(st.sampled_from(LINES))
def test_a_record_gives_its_request_back(line: tuple[str, str]) -> None:
    try:
        request = read_request(*line)
    except HostError:
        return
    assert request_of(recorded([line], policy())[0]) == request


def a_history() -> list[dict[str, Any]]:
    time = "2030-01-01T00:00:00.000Z"
    return [
        {"event": "start", "task": "t", "policy": "p1", "time": time},
        {"event": "connected", "task": "t", "policy": "p1", "time": time, "host": "a.example", "port": 443,
         "way": "tunnel", "address": "192.0.2.1"},
        {"event": "connected", "task": "t", "policy": "p1", "time": time, "host": "a.example", "port": 443,
         "way": "tunnel", "address": "192.0.2.1"},
        {"event": "connected", "task": "t", "policy": "p1", "time": time, "host": "cut.example", "port": 443,
         "way": "tunnel", "address": "192.0.2.1"},
        {"event": "connected", "task": "other", "policy": "p1", "time": time, "host": "z.example",
         "port": 443, "way": "tunnel", "address": "192.0.2.1"},
        {"event": "request", "task": "t", "policy": "p1", "time": time, "host": "down.example", "port": 443,
         "way": "forward", "sent": 0, "received": 0, "status": 0},
        {"event": "tunnel", "task": "t", "policy": "p1", "time": time, "host": "a.example", "port": 443,
         "way": "tunnel", "sent": 5, "received": 7},
        {"event": "tunnel", "task": "t", "policy": "p1", "time": time, "host": "a.example", "port": 443,
         "way": "tunnel", "sent": 5, "received": 7},
        {"event": "tunnel", "task": "other", "policy": "p1", "time": time, "host": "z.example", "port": 443,
         "way": "tunnel", "sent": 5, "received": 7},
        {"event": "served", "task": "t", "policy": "p1", "time": time, "ecosystem": "pypi", "package": "idna",
         "version": "3.10", "sha256": "ab" * 32, "locks": ["app"], "path": "/x"},
        {"event": "served", "task": "t", "policy": "p1", "time": time, "path": "/simple/idna/"},
        {"event": "blocked", "task": "t", "policy": "p1", "time": time, "kind": "malformed",
         "reason": "<b>x</b>", "target": "<script>alert(1)</script>"},
        {"event": "decision", "task": "t", "policy": "p1", "time": time, "verdict": "deny", "kind": "host",
         "rule": "default", "reason": "no", "ask": "[[allow]]", "host": "no.example", "port": 443},
        {"event": "missing", "task": "t", "policy": "p1", "time": time, "ecosystem": "pypi",
         "package": "reqests", "kind": "name close to a locked one", "near": "requests"},
    ]  # fmt: skip


def test_what_a_task_touched() -> None:
    report = touched("t", a_history())
    assert [(d.host, d.requests, d.sent, d.received) for d in report.destinations] == [
        ("a.example", 2, 10, 14),
        ("cut.example", 1, 0, 0),  # a kill left no end of it; and nobody answered at down.example
    ]
    assert [(p.package, p.version, p.locks) for p in report.packages] == [("idna", "3.10", ("app",))]
    assert {(b.kind, b.target) for b in report.blocked} == {
        ("host", "no.example:443"), ("malformed", "<script>alert(1)</script>"),
    }  # fmt: skip
    assert summary(report) == (
        "reached a.example, cut.example; 1 package file from the mirror; "
        "blocked 2 attempts: no.example:443 (host), <script>alert(1)</script> (malformed)"
    )
    assert summary(touched("nobody", a_history())).startswith("reached no host outside; 0 package files")


def test_the_page_is_escaped() -> None:
    page = to_html(touched("t", a_history()), "note <>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "note &lt;&gt;" in page


def test_why_says_what_would_allow_it() -> None:
    found = {one.target: one.ask for one in blocked(a_history())}
    assert found["no.example:443"] == "[[allow]]"


def test_what_is_missing() -> None:
    (one,) = missing(a_history())
    assert (one.package, one.near, one.times, one.tasks) == ("reqests", "requests", 1, ("t",))
