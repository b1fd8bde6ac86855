"""A request as the policy sees it: which way it goes, to where, with which method and path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mirror.gate.hosts import Endpoint, HostError, check_path, parse_endpoint, parse_url

ROUTES = "/route/"


class Way(StrEnum):
    """Where a request goes."""

    MIRROR = "mirror"
    ROUTE = "route"
    FORWARD = "forward"
    TUNNEL = "tunnel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `path` has the query; of a tunnel nothing but the endpoint is known."""

    way: Way
    method: str
    endpoint: Endpoint | None = None
    path: str = ""
    route: str = ""


def read_request(method: str, target: str) -> Request:
    """Read the target of a request line in origin, absolute or authority form. Raises HostError."""
    if method == "CONNECT":
        return Request(way=Way.TUNNEL, method=method, endpoint=parse_endpoint(target))
    if target.startswith("/"):
        return _origin(method, check_path(target))
    url = parse_url(target)
    if url.scheme != "http":
        raise HostError("https goes through CONNECT, so that it stays encrypted")
    return Request(way=Way.FORWARD, method=method, endpoint=url.endpoint, path=url.path)


def request_for(method: str, url: str) -> Request:
    """Give the request that a client of the gate makes to get a URL. Raises HostError."""
    if url.lower().startswith("https:"):
        return Request(way=Way.TUNNEL, method="CONNECT", endpoint=parse_url(url).endpoint)
    return read_request(method, url)


def _origin(method: str, target: str) -> Request:
    if not target.startswith(ROUTES):
        return Request(way=Way.MIRROR, method=method, path=target)
    name, _, rest = target.removeprefix(ROUTES).partition("/")
    return Request(way=Way.ROUTE, method=method, route=name, path=f"/{rest}")
