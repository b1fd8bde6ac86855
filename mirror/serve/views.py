"""What the server says of itself: health, metrics, and a page for people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mirror.console import human_size, human_time
from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.serve.index import Index
from mirror.status import Status, Stock, read_status

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WIDTH, _HEIGHT = 640, 160  # of the chart, in its own units
_SHOWN = 50
DEVPI_TOP = "+devpi"  # where the page is that devpi has at its top


class Views:
    """Answers about one mirror."""

    def __init__(self, layout: Layout, index: Index, *, devpi_pages: bool = False) -> None:
        self._layout = layout
        self._index = index
        self._devpi = DEVPI_TOP if devpi_pages else None

    def routes(self) -> list[web.RouteDef]:
        """Give what to answer, and how."""
        return [
            web.get("/health", self._health),
            web.get("/metrics", self._metrics),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        tree = self._index.tree()
        content = {"status": "ok" if tree else "empty", "snapshot": tree.name if tree else None}
        return web.json_response(content, status=200 if tree else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        lines = metrics(self._status(), self._index)
        return web.Response(body="".join(lines).encode(), headers={"Content-Type": _METRICS_TYPE})

    async def page(self, _request: web.Request) -> web.Response:
        """Give the page for people."""
        status = self._status()
        missing = self._index.missing.most_common(_SHOWN)
        page = _template().render(
            status=status,
            served=status.served,
            snapshots=list(reversed(status.snapshots))[:_SHOWN],
            bars=bars(status.snapshots[-_SHOWN:]),
            width=_WIDTH,
            height=_HEIGHT,
            missing=missing,
            devpi=self._devpi,
            version=version("lockstock"),
        )
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    def _status(self) -> Status:
        try:
            return read_status(self._layout)
        except StoreError as error:
            raise web.HTTPServiceUnavailable(
                text=f"a snapshot cannot be read: {error.reason}; `mirror verify` sets it aside\n"
            ) from error


def metrics(status: Status, index: Index) -> Iterator[str]:
    """Give the lines of Prometheus' text format."""
    served, run = status.served, status.last_run
    values = {
        "lockstock_snapshots": len(status.snapshots),
        "lockstock_snapshot_files": served.files if served else 0,
        "lockstock_snapshot_bytes": served.size if served else 0,
        "lockstock_snapshot_stale_locks": len(served.stale) if served else 0,
        "lockstock_snapshot_written_timestamp_seconds": served.written if served else 0,
        "lockstock_disk_free_bytes": status.disk_free,
    }
    if run:
        values["lockstock_refresh_last_exit_code"] = run.exit_code
        values["lockstock_refresh_last_timestamp_seconds"] = run.ended
        values["lockstock_refresh_last_seconds"] = run.seconds
        values["lockstock_refresh_last_success_timestamp_seconds"] = run.succeeded or 0
    for name, value in values.items():
        yield f"# TYPE {name} gauge\n{name} {value}\n"
    yield "# TYPE lockstock_requests_total counter\n"
    for kind in ("page", "file", "metadata", "missing"):
        yield f'lockstock_requests_total{{kind="{kind}"}} {index.requests[kind]}\n'


def bars(snapshots: tuple[Stock, ...]) -> list[dict[str, object]]:
    """Lay out the chart of sizes: one bar for each snapshot."""
    largest = max((stock.size for stock in snapshots), default=0) or 1
    step = _WIDTH / max(len(snapshots), 8)
    return [
        {
            "x": round(step * place, 1),
            "y": round(_HEIGHT * (1 - stock.size / largest), 1),
            "width": round(step * 0.8, 1),
            "height": round(_HEIGHT * stock.size / largest, 1),
            "label": f"{stock.name}: {human_size(stock.size)}",
        }
        for place, stock in enumerate(snapshots)
    ]


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("templates", "serve"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = human_size
    environment.filters["seconds"] = human_time
    environment.filters["when"] = lambda moment: f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
    environment.filters["age"] = lambda moment: human_time(max(0.0, time.time() - moment))
    return environment.get_template("status.html.j2")
