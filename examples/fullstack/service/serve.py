"""Serves the built page and says how the water stands."""

from __future__ import annotations

import math
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

PERIOD = 12.42  # hours from one high water to the next, on average
PAGE = Path(__file__).parent.parent / "web" / "dist"


def tide(request: Request) -> JSONResponse:
    """Give the height of the water, in metres about the mean, some hours after high water."""
    hours = float(request.query_params["hours"])
    return JSONResponse({"height": round(2 * math.cos(2 * math.pi * hours / PERIOD), 2)})


app = Starlette(routes=[Route("/tide", tide), Mount("/", StaticFiles(directory=PAGE, html=True))])
