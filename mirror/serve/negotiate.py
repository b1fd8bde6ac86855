"""Which form of an index page a client wants (PEP 691, RFC 9110 section 12.5.1); pure."""

from __future__ import annotations

from mirror.publish.pages import HTML, JSON

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
_HTML_TYPE = "application/vnd.pypi.simple.v1+html"
_FORMS = {
    JSON_TYPE: JSON_TYPE,
    "application/vnd.pypi.simple.latest+json": JSON_TYPE,
    _HTML_TYPE: _HTML_TYPE,
    "application/vnd.pypi.simple.latest+html": _HTML_TYPE,
    "text/html": "text/html",
    "text/*": "text/html",
    "*/*": "text/html",
}


def content_type(accept: str) -> str:
    """Give the type to answer with: the one that is liked most, of equals the first; HTML without a wish."""
    best, chosen = 0.0, "text/html"
    for wish in accept.lower().split(","):
        kind, _, parameters = wish.partition(";")
        quality = _quality(parameters)
        if quality > best and kind.strip() in _FORMS:
            best, chosen = quality, _FORMS[kind.strip()]
    return chosen


def page_of(kind: str) -> str:
    """Give the name of the file that holds this form of a page."""
    return JSON if kind == JSON_TYPE else HTML


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
