"""Reports as JUnit: well-formed whatever a sandbox printed."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from hypothesis import given
from hypothesis import strategies as st

from imagegen.junit import junit
from imagegen.verify import Check, Report

GOOD = Check(name="pip check", ok=True, seconds=1.25, output="No broken requirements found.")
BAD = Check(name="pytest -q", ok=False, seconds=0.5, output="\x1b[31mE\x1b[0m <a> & ]]>\nexit 1\x00")


def report(name: str, *checks: Check) -> Report:
    return Report(name=name, reference=name, image="sha256:00", engine="bubblewrap", checks=checks)


def test_what_a_reader_finds() -> None:
    root = Xml.fromstring(junit(report("service", GOOD, BAD)))

    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("2", "1", "1.750")
    assert {one.get("name"): one.get("value") for one in suite.iter("property")} == {
        "image": "sha256:00",
        "engine": "bubblewrap",
    }
    good, bad = suite.iter("testcase")
    assert (good.get("classname"), good.get("name"), good.get("time")) == ("service", "pip check", "1.250")
    assert good.find("failure") is None
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message") == "exit 1\N{REPLACEMENT CHARACTER}"
    assert failure.text == "\ufffd[31mE\ufffd[0m <a> & ]]>\nexit 1\ufffd"


@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200), st.booleans())
def test_always_well_formed(name: str, output: str, ok: bool) -> None:
    root = Xml.fromstring(junit(report(name, Check(name=name, ok=ok, seconds=0.0, output=output))))

    assert len(root.findall("./testsuite/testcase")) == 1
