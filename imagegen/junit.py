"""A report of verify in the form that CI systems read: JUnit's XML. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from imagegen.verify import Check, Report

# What XML 1.0 has no way to write, not even escaped.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INSTEAD = "\N{REPLACEMENT CHARACTER}"


def junit(report: Report) -> bytes:
    """Write a report as one test suite; what came from a sandbox loses its control characters."""
    totals = {
        "name": _text(report.name),
        "tests": str(len(report.checks)),
        "failures": str(sum(not check.ok for check in report.checks)),
        "errors": "0",
        "time": f"{sum(check.seconds for check in report.checks):.3f}",
    }
    root = Xml.Element("testsuites", totals)
    suite = Xml.SubElement(root, "testsuite", {**totals, "skipped": "0"})
    properties = Xml.SubElement(suite, "properties")
    for name, value in {"image": report.image, "engine": report.engine}.items():
        Xml.SubElement(properties, "property", {"name": name, "value": _text(value)})
    for check in report.checks:
        _add(suite, report.name, check)
    Xml.indent(root)
    written: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _add(suite: Xml.Element, classname: str, check: Check) -> None:
    names = {"classname": _text(classname), "name": _text(check.name), "time": f"{check.seconds:.3f}"}
    case = Xml.SubElement(suite, "testcase", names)
    output = _text(check.output)
    if check.ok:
        Xml.SubElement(case, "system-out").text = output
    else:
        lines = output.splitlines()
        Xml.SubElement(case, "failure", {"message": lines[-1] if lines else "it failed"}).text = output


def _text(text: str) -> str:
    return _UNWRITABLE.sub(_INSTEAD, text)
