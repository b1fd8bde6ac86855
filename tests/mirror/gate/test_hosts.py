# ruff: noqa: RUF001 - letters and digits that look like others are what is tested
"""The parser of hosts: what has two readings is refused, and what is read is canonical."""

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.addresses import refusal
from mirror.gate.hosts import Endpoint, HostError, Name, parse_endpoint, parse_host, parse_name, parse_url

LABEL = st.from_regex(r"[a-z]([a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("api.example", "api.example"),
        ("API.Example", "api.example"),
        ("api.example.", "api.example"),
        ("a-b.example", "a-b.example"),
        ("3com.example", "3com.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("localhost", "localhost"),
    ],
)
def test_names_are_canonical(written: str, canonical: str) -> None:
    assert parse_host(written) == Name(canonical)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::FFFF:127.0.0.1]", "::ffff:127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
    ],
)
def test_addresses_are_addresses(written: str, address: str) -> None:
    assert parse_host(written) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "written",
    [
        "", ".", "..", "a..b", ".example", "api.example..", "-a.example", "a-.example", "a_b.example",
        "api.example\x00", "\x00", "api\x00.example", "api.example\n", "api.example\r\nHost: x",
        "a b.example",
        "\tapi.example", "api.example\x7f", "api%2eexample", "api.example%00", "%31%32%37.0.0.1",
        "user@api.example", "user:pw@api.example", "api.example@127.0.0.1", "api.example/x", "api.example?x",
        "api.example#x", "api.example\\x", "api.example:443", "１２７.0.0.1", "127。0。0。1", "ａpi.example",
        "api。example", "apі.example", "münchen.example", "ⓔxample.example", "api\u200b.example",
        "api\u00ad.example", "xn--.example", "xn--a.example", "xn---.example", "xn--api-.example",
        "XN--DECODES-TO-NOTHING\u00e9", "ab--cd.example", "xn--0.example", "xn--99999999.example",
        "::1", "[::1", "::1]", "[[::1]]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[127.0.0.1]",
        "[api.example]",
        "[]", "[v1.x]", "a" * 64 + ".example", ".".join(["a" * 63] * 4), "*", "*.example", "(api).example",
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_refused(written: str) -> None:
    with pytest.raises(HostError):
        parse_host(written)


@pytest.mark.parametrize(
    "written",
    [
        "2130706433", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1",
        "127.0.0.1.1", "127.0.0.256", "127.0.0.01", "1.2.3.0x4", "0", "0x", "1", "api.example.1", "foo.0x1",
        "4294967296", "127.0.0.1..", "169.254.43518",
    ],
)  # fmt: skip
def test_addresses_in_disguise_are_refused(written: str) -> None:
    if written.endswith(".."):
        with pytest.raises(HostError):
            parse_host(written)
        return
    with pytest.raises(HostError) as caught:
        parse_host(written)
    assert caught.value.kind == "raw address"


@pytest.mark.parametrize(
    "label",
    [
        "xn--" + text.encode("punycode").decode()
        for text in ("ａpi", "MÜNCHEN", "ﬁsh", "u\u0308ber", "a\u200bb")
    ],
)
def test_a_label_that_is_not_canonical_inside_is_refused(label: str) -> None:
    with pytest.raises(HostError):
        parse_host(f"{label.lower()}.example")


def test_a_homograph_is_another_host() -> None:
    """Cyrillic letters that look like the Latin ones give a name that equals no rule for the Latin name."""
    fake = "xn--" + "аррle".encode("punycode").decode()
    assert parse_host(f"{fake}.example") != parse_host("apple.example")


@pytest.mark.parametrize("written", ["127.0.0.1", "[::1]"])
def test_an_address_is_no_name(written: str) -> None:
    with pytest.raises(HostError, match="address"):
        parse_name(written)


@pytest.mark.parametrize(
    "written",
    [
        "api.example", "api.example:", "api.example:0", "api.example:65536", "api.example:+1",
        "api.example: 443",
        "api.example:４４３", "api.example:0443", "api.example:443:443", "[::1]443", "::1:443", ":443",
        "u@api.example:443", "api.example:443/", "api.example:4e2", "api.example:-1", "[::1]]:443",
    ],
)  # fmt: skip
def test_endpoints_that_are_none(written: str) -> None:
    with pytest.raises(HostError):
        parse_endpoint(written)


def test_endpoints() -> None:
    assert parse_endpoint("api.example.:443") == Endpoint(Name("api.example"), 443)
    assert str(parse_endpoint("[::1]:80")) == "[::1]:80"
    assert parse_endpoint("api.example", 80).port == 80


@pytest.mark.parametrize(
    "written",
    [
        "/x", "api.example", "ftp://api.example/", "http:/api.example", "http:///x", "http://u@api.example/",
        "http://api.example\\@evil.example/", "http://api.example/a b", "http://api.example/\x00",
        "http://api.example/%zz", "http://api.example/\n", "http://api.example/é", "http://api.example#x",
        "http://api.example/#x", "http://api.example:80:80/", "http://%61pi.example/", "http://api.example/\\..",
        "javascript://x/", "http://0x7f.1/", "http://2130706433/",
    ],
)  # fmt: skip
def test_urls_that_are_none(written: str) -> None:
    with pytest.raises(HostError):
        parse_url(written)


def test_urls() -> None:
    url = parse_url("HTTPS://API.example./a/b?c=d%20e")
    assert (url.scheme, str(url.endpoint), url.path) == ("https", "api.example:443", "/a/b?c=d%20e")
    assert parse_url("http://api.example?x").path == "/?x"


@given(NAMES)
def test_names_survive_any_case_and_a_final_dot(name: str) -> None:
    assert parse_host(name.upper() + ".") == parse_host(name) == Name(name)


@given(st.text(max_size=80))
def test_any_text_is_read_canonically_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except HostError:
        return
    written = f"[{host}]" if isinstance(host, ipaddress.IPv6Address) else str(host)
    assert parse_host(written) == host
    if isinstance(host, Name):
        assert set(host.text) <= set(string.ascii_lowercase + string.digits + "-.")


@given(st.text(alphabet="0123456789abcdefx.:[]%@-/XF０１", max_size=40))
def test_digits_and_dots_never_become_a_name_that_a_resolver_reads_as_an_address(text: str) -> None:
    """inet_aton, which resolvers fall back to, takes no name that the parser let through as one."""
    import socket

    try:
        host = parse_host(text)
    except HostError:
        return
    if isinstance(host, Name):
        with pytest.raises(OSError, match=r"."):
            socket.inet_aton(host.text)


@given(st.ip_addresses())
def test_addresses_come_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert parse_host(f"[{address}]" if address.version == 6 else str(address)) == address


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"), ("127.255.255.254", "loopback"), ("::1", "loopback"),
        ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"), ("::", "unspecified"),
        ("10.0.0.1", "private"), ("172.31.255.255", "private"), ("192.168.0.1", "private"),
        ("100.64.0.1", "private"), ("fd12::1", "private"), ("fec0::1", "private"),
        ("169.254.0.1", "link-local"), ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata service"), ("169.254.170.2", "metadata service"),
        ("168.63.129.16", "metadata service"), ("100.100.100.200", "metadata service"),
        ("192.0.0.192", "metadata service"), ("fd00:ec2::254", "metadata service"),
        ("224.0.0.1", "multicast"), ("ff02::1", "multicast"),
        ("64:ff9b::7f00:1", "NAT64"), ("64:ff9b:1::a00:1", "NAT64"),
        ("::ffff:8.8.8.8", "IPv4 in disguise"), ("::127.0.0.1", "IPv4 in disguise"),
        ("::ffff:0:127.0.0.1", "IPv4 in disguise"), ("2002:7f00:1::", "IPv4 in disguise"),
        ("2001:0:7f00:1::", "IPv4 in disguise"), ("2600::5efe:7f00:1", "IPv4 in disguise"),
        ("2600::200:5efe:a00:1", "IPv4 in disguise"),
        ("192.0.2.1", "documentation"), ("198.51.100.7", "documentation"), ("203.0.113.9", "documentation"),
        ("2001:db8::1", "documentation"), ("3fff::1", "documentation"),
        ("192.0.0.1", "reserved"), ("198.18.0.1", "reserved"), ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"), ("192.88.99.1", "reserved"), ("2001:10::1", "reserved"),
        ("4000::1", "reserved"), ("e000::1", "reserved"), ("100::1", "reserved"),
    ],
)  # fmt: skip
def test_refused_addresses(address: str, kind: str) -> None:
    found = refusal(ipaddress.ip_address(address))
    assert found is not None
    assert found.kind == kind
    assert address.split(":")[0] in str(found)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "9.255.255.255", "11.0.0.0", "172.32.0.1", "2600::1", "2a00:1450::1"]
)
def test_public_addresses_pass(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) is None


@given(st.ip_addresses())
def test_all_that_the_standard_library_calls_not_global_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global:
        assert refusal(address) is not None


@given(st.integers(0, 2**32 - 1))
def test_no_way_to_write_ipv4_inside_ipv6_passes(value: int) -> None:
    for base in (0xFFFF << 32, 0, 0xFFFF << 48, 0x64FF9B << 96, 0x5EFE << 32 | 0x2600 << 112):
        assert refusal(ipaddress.IPv6Address(base | value)) is not None
