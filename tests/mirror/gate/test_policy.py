"""Policies: what is read, what is refused with its place, and what is decided."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.errors import PolicyError
from mirror.gate.hosts import Endpoint, HostError, Name, parse_name
from mirror.gate.limits import Bucket, Limits, Usage, take
from mirror.gate.policy import Kind, Pattern, Policy, answer, decide, unmet
from mirror.gate.policyfile import load_policy, parse_policy, template_names
from mirror.gate.replay import to_toml
from mirror.gate.requests import Request, Way, read_request

PLACES = {
    "pip": ("https://index.example/simple/",),
    "npm": ("https://registry.example/",),
    "files": ("https://files.example/", "https://registry.example/"),
}
STAGING = """
mirror = true

[[allow]]
host = "api.example"
ports = [443, 8443]

[[allow]]
host = "*.docs.example"
ports = [443]
rate = "120/m"
burst = 5
sent = 1000

[[allow]]
host = "inside.example"
ports = [443]
address = "10.1.2.3"

[[deny]]
host = "secret.docs.example"

[[route]]
name = "staging"
upstream = "https://staging.example/base/"
methods = ["GET", "POST"]
paths = ["/v1/items", "/v2/"]
credential = { env = "STAGING_TOKEN", scheme = "Bearer" }
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse_policy("staging.toml", STAGING, {})


def test_empty_denies_all() -> None:
    empty = parse_policy("empty.toml", "", {})
    for line in ("GET /simple/", "CONNECT api.example:443", "GET http://api.example/", "GET /route/x/"):
        assert not answer(empty, *line.split(" "))[1].allowed


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT api.example:443", "CONNECT API.EXAMPLE.:8443", "GET https://api.example/x", "GET /simple/x/",
        "CONNECT a.docs.example:443", "CONNECT a.b.docs.example:443", "GET /route/staging/v1/items",
        "POST /route/staging/v1/items/7?x=1", "GET /route/staging/v2/", "GET /route/staging/v2/any/thing",
        "CONNECT inside.example:443", "GET /route/staging/v2/@scope%2fname", "GET /route/staging/v2/a%2Fb",
    ],
)  # fmt: skip
def test_allowed(policy: Policy, line: str) -> None:
    assert answer(policy, *line.split(" "))[1].allowed


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("CONNECT api.example:80", Kind.PORT), ("GET http://api.example/", Kind.PORT),
        ("CONNECT x.api.example:443", Kind.HOST), ("CONNECT docs.example:443", Kind.HOST),
        ("CONNECT xdocs.example:443", Kind.HOST), ("CONNECT secret.docs.example:443", Kind.DENIED),
        ("CONNECT api.example.evil.example:443", Kind.HOST), ("CONNECT 10.1.2.3:443", Kind.PRIVATE),
        ("CONNECT 127.0.0.1:443", Kind.PRIVATE), ("CONNECT 169.254.169.254:80", Kind.METADATA),
        ("GET http://[::ffff:169.254.169.254]/", Kind.PRIVATE), ("CONNECT 8.8.8.8:53", Kind.RAW_ADDRESS),
        ("CONNECT 2130706433:80", Kind.RAW_ADDRESS), ("CONNECT 0x7f.1:80", Kind.RAW_ADDRESS),
        ("CONNECT api.example", Kind.MALFORMED), ("CONNECT u@api.example:443", Kind.MALFORMED),
        ("GET ftp://api.example/", Kind.MALFORMED), ("PUT /simple/x/", Kind.METHOD),
        ("DELETE /route/staging/v1/items", Kind.METHOD), ("GET /route/staging/v1/itemsX", Kind.PATH),
        ("GET /route/staging/v3", Kind.PATH), ("GET /route/staging/v2/../v3", Kind.PATH),
        ("GET /route/staging/v2/%2e%2E/v3", Kind.PATH), ("GET /route/staging/v2//x", Kind.PATH),
        ("GET /route/staging/v2/.%2e/x", Kind.PATH), ("GET /route/staging/v2/%2fx", Kind.PATH),
        ("GET /route/staging/v2/..%2fv3", Kind.PATH), ("GET /route/staging/v1%2fitems", Kind.PATH),
        ("GET /route/staging/v2/x%2F%2e%2e%2f%2E%2e%2fv3", Kind.PATH),
        ("GET /route/staging/v2%2f..", Kind.PATH),
        ("GET /route/staging/v2/%5c..", Kind.PATH), ("GET /route/staging/v2/%252e%252e/", Kind.PATH),
        ("GET /route/staging/v2/..;/v3", Kind.PATH), ("GET /route/staging/v2/..;a=b/v3", Kind.PATH),
        ("GET /route/staging/v2/%2e.%3Ba/v3", Kind.PATH), ("GET /route/staging/v2/.;/x", Kind.PATH),
        ("GET /route/staging", Kind.PATH), ("GET /route/other/v2/", Kind.HOST),
        ("GET /route/staging%2fv2/", Kind.HOST),
    ],
)  # fmt: skip
def test_denied_with_its_class(policy: Policy, line: str, kind: Kind) -> None:
    decision = answer(policy, *line.split(" "))[1]
    assert not decision.allowed
    assert decision.kind is kind
    assert decision.reason
    assert decision.rule


def test_deny_wins_over_routes_and_order() -> None:
    text = STAGING + '[[deny]]\nhost = "staging.example"\n[[deny]]\nhost = "api.example"\nports = [8443]\n'
    policy = parse_policy("p.toml", text, {})
    assert answer(policy, "GET", "/route/staging/v2/")[1].kind is Kind.DENIED
    assert answer(policy, "CONNECT", "api.example:8443")[1].kind is Kind.DENIED
    assert answer(policy, "CONNECT", "api.example:443")[1].allowed


@pytest.mark.parametrize("name", template_names())
def test_templates_do_what_they_say(name: str) -> None:
    policy = load_policy(name, PLACES)
    assert policy.must_pass
    assert policy.must_fail
    assert unmet(policy) == ()


@pytest.mark.parametrize("name", template_names())
def test_expectations_can_fail(name: str) -> None:
    """The lists are no decoration: turned around, each line is reported."""
    policy = load_policy(name, PLACES)
    text = f"mirror = true\n[expect]\npass = {list(policy.must_fail)}\nfail = {list(policy.must_pass)}\n"
    turned = parse_policy("turned.toml", text, PLACES)
    mirror_only = [line for line in turned.must_fail if " /simple" in line or " /files" in line]
    assert {f"must pass: {line}" for line in turned.must_pass} <= set(unmet(turned))
    assert {f"must fail: {line}" for line in mirror_only} <= set(unmet(turned))


def test_the_templates() -> None:
    assert set(template_names()) == {"dependency-update", "docs-retrieval", "test-run"}


def test_no_template_names_a_package_index() -> None:
    policy = load_policy("dependency-update", {"pip": (), "npm": (), "files": ()})
    assert policy.allows == policy.routes == ()


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("mirror = 1", "p.toml:1", "mirror"),
        ("miror = true", "p.toml:1", "unknown key"),
        ('[[allow]]\nhost = "a.example"', "p.toml:1", "ports"),
        ('[[allow]]\nhost = "a.example"\nports = []', "p.toml:3", "ports"),
        ('[[allow]]\nhost = "a.example"\nports = [0]', "p.toml:3", "port"),
        ('[[allow]]\nhost = "a.example"\nports = [65536]', "p.toml:3", "port"),
        ('[[allow]]\nhost = "a.example"\nports = ["443"]', "p.toml:3", "port"),
        ('[[allow]]\nhost = "*"\nports = [443]', "p.toml:2", "host"),
        ('[[allow]]\nhost = "*.example"\nports = [443]', "p.toml:2", "wildcard"),
        ('[[allow]]\nhost = "a.*.example"\nports = [443]', "p.toml:2", "host"),
        ('[[allow]]\nhost = "**.a.example"\nports = [443]', "p.toml:2", "host"),
        ('[[allow]]\nhost = "10.0.0.1"\nports = [443]', "p.toml:2", "address"),
        ('[[allow]]\nhost = "a.example:443"\nports = [443]', "p.toml:2", "host"),
        ('[[allow]]\nhost = "*.a.example"\nports = [443]\naddress = "10.0.0.1"', "p.toml:4", "address"),
        ('[[allow]]\nhost = "a.example"\nports = [443]\naddress = "10.0.0"', "p.toml:4", "address"),
        ('[[allow]]\nhost = "a.example"\nports = [443]\nrate = "fast"', "p.toml:4", "rate"),
        ('[[allow]]\nhost = "a.example"\nports = [443]\nsent = -1', "p.toml:4", "sent"),
        ('[[allow]]\nhost = "a.example"\nports = [443]\nmethods = ["GET"]', "p.toml:4", "unknown key"),
        ('[[allow]]\nhosts_of = "pip"', "p.toml:2", "stands for no upstreams"),
        ('[[route]]\nname = "X"\nupstream = "https://a.example"', "p.toml:2", "letters"),
        (
            '[[route]]\nname = "x"\nupstream = "http://a.example"\ncredential = { env = "S" }',
            "p.toml:3",
            "in the clear",
        ),
        ('[[route]]\nname = "x"\nupstream = "ftp://a.example"\naddress = "10.0.0.1"', "p.toml:3", "http"),
        ('[[route]]\nname = "x"\nupstream = "https://10.0.0.1/"', "p.toml:3", "address"),
        ('[[route]]\nname = "x"\nupstream = "https://u:p@a.example/"', "p.toml:3", "upstream"),
        (
            '[[route]]\nname = "x"\nupstream = "https://a.example"\nmethods = ["CONNECT"]',
            "p.toml:4",
            "method",
        ),
        ('[[route]]\nname = "x"\nupstream = "https://a.example"\npaths = ["v1"]', "p.toml:4", "path"),
        ('[[route]]\nname = "x"\nupstream = "https://a.example"\ncredential = {}', "p.toml:4", "env or file"),
        ("x\nmirror = true", "p.toml:1", "TOML"),
    ],
)
def test_faults_say_where(text: str, place: str, reason: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy("p.toml", text, {})
    assert caught.value.where == place
    assert reason in caught.value.reason
    assert "u:p@" not in str(caught.value)


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(str(tmp_path / "none.toml"))
    assert "test-run" in caught.value.hint


def test_the_digest_is_of_the_meaning() -> None:
    plain = parse_policy("a.toml", STAGING, {})
    commented = parse_policy("a.toml", "# why\ndescription = 'words'\n" + STAGING, {})
    assert plain.digest == commented.digest
    assert plain.digest != parse_policy("a.toml", STAGING.replace("8443", "8444"), {}).digest
    assert plain.digest != parse_policy("a.toml", STAGING.replace("10.1.2.3", "10.1.2.4"), {}).digest


LABELS = st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=4).map(".".join)


@given(LABELS, LABELS, st.booleans(), st.booleans())
def test_covering_is_about_hosts(one: str, other: str, below: bool, other_below: bool) -> None:
    wide, narrow = Pattern(parse_name(one), below), Pattern(parse_name(other), other_below)
    inside = Name(f"x.{other}") if other_below else Name(other)
    if wide.covers(narrow):
        assert wide.matches(inside)
    assert narrow.matches(inside)


@given(st.text(max_size=60), st.integers(1, 65535))
def test_only_the_two_forms_ever_match(host: str, port: int) -> None:
    policy = parse_policy("p.toml", STAGING, {})
    try:
        request = read_request("CONNECT", f"{host}:{port}")
    except HostError:
        return
    name = host.lower().removesuffix(".")
    exact = (name == "api.example" and port in (443, 8443)) or (name == "inside.example" and port == 443)
    below = name.endswith(".docs.example") and name != "secret.docs.example" and port == 443
    assert decide(policy, request).allowed == (exact or below)


def test_a_decision_asks_for_what_would_allow_it(policy: Policy) -> None:
    request = Request(way=Way.TUNNEL, method="CONNECT", endpoint=Endpoint(Name("new.example"), 443))
    decision = decide(policy, request)
    assert decision.ask == '[[allow]]\nhost = "new.example"\nports = [443]'


def test_what_is_asked_for_is_a_policy_that_allows_it() -> None:
    decision = answer(parse_policy("p.toml", "", {}), "GET", "https://new.example/x")[1]
    assert answer(parse_policy("p.toml", decision.ask, {}), "GET", "https://new.example/x")[1].allowed
    decision = answer(parse_policy("p.toml", "", {}), "GET", "/simple/")[1]
    assert answer(parse_policy("p.toml", decision.ask, {}), "GET", "/simple/")[1].allowed


def test_a_bucket_fills_with_time_and_never_above_its_burst() -> None:
    limits = Limits(rate=2, burst=3)
    bucket, taken = None, []
    for now in (0, 0, 0, 0, 0.5, 0.6, 100, 100, 100, 100):
        bucket, admitted = take(bucket, limits, now)
        taken.append(admitted)
    assert taken == [True, True, True, False, True, False, True, True, True, False]


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_clock_that_goes_back_gives_no_tokens(moments: list[float]) -> None:
    limits = Limits(rate=1, burst=2)
    bucket = Bucket(0, 1000)
    for now in moments:
        bucket, admitted = take(bucket, limits, min(now, bucket.at))
        assert not admitted or bucket.tokens >= 0
    assert bucket.tokens <= 2


def test_budgets() -> None:
    usage = Usage(Limits(sent=10, received=5))
    usage.sent, usage.received = 10, 4
    assert usage.spent
    assert not usage.over
    usage.sent = 11
    assert usage.over
    assert not Usage(Limits()).spent


def test_routes_in_the_clear_where_the_url_says_so() -> None:
    text = '[[route]]\nname = "devpi"\nupstream = "http://devpi.example:3141/root"\naddress = "10.1.2.3"'
    policy = parse_policy("p.toml", text, {})
    assert parse_policy("p.toml", to_toml(policy), {}).routes == policy.routes
    (route,) = policy.routes
    assert (route.tls, route.endpoint.port, route.base) == (False, 3141, "/root")
    places = {"pip": ("http://index.example/simple/",), "npm": ("https://npm.example/",), "files": ()}
    found = load_policy("dependency-update", places)
    assert {(r.name, r.tls, r.endpoint.port) for r in found.routes} == {
        ("pip", False, 80),
        ("npm", True, 443),
    }
    assert unmet(found) == ()
