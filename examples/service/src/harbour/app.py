"""The HTTP service."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import structlog
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from harbour.tides import HARBOURS, high_waters, levels

log = structlog.get_logger()


class Settings(BaseSettings, env_prefix="HARBOUR_"):
    """Settings, from the environment."""

    longest_hours: int = 24 * 14


class HighWater(BaseModel):
    """The time (UTC) and level in metres of a high water."""

    time: str
    level: float


app = FastAPI(title="harbour")
settings = Settings()


@app.get("/harbours")
def harbours() -> list[str]:
    """Name the harbours."""
    return sorted(HARBOURS)


@app.get("/harbours/{name}/high-waters")
def tide_table(name: str, start: str, hours: Annotated[int, Query(ge=1)] = 48) -> list[HighWater]:
    """Give the high waters of a harbour from `start` on."""
    if hours > settings.longest_hours:
        raise HTTPException(422, f"no more than {settings.longest_hours} hours")
    try:
        series = levels(name, pd.Timestamp(start), hours)
    except KeyError:
        raise HTTPException(404, "no such harbour") from None
    found = high_waters(series)
    log.info("tide table", harbour=name, count=len(found))
    return [HighWater(time=time.isoformat(), level=round(float(level), 3)) for time, level in found.items()]
