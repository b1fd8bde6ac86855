"""Predicts the water level of a harbour as a sum of harmonic constituents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Constituent:
    """One harmonic: amplitude in metres, period in hours, phase in degrees."""

    amplitude: float
    period: float
    phase: float


HARBOURS: dict[str, tuple[Constituent, ...]] = {
    "northport": (Constituent(1.52, 12.42, 40.0), Constituent(0.51, 12.0, 75.0)),
    "southquay": (Constituent(0.38, 12.42, 190.0), Constituent(0.21, 23.93, 12.0)),
}


def levels(harbour: str, start: pd.Timestamp, hours: int, step_minutes: int = 10) -> pd.Series:
    """Give the level in metres above the mean, indexed by time. Raises KeyError for an unknown harbour."""
    constituents = HARBOURS[harbour]
    times = pd.date_range(start, periods=hours * 60 // step_minutes + 1, freq=f"{step_minutes}min")
    elapsed = (times - pd.Timestamp("2000-01-01")).total_seconds().to_numpy() / 3600
    total = sum(
        c.amplitude * np.cos(2 * np.pi * elapsed / c.period - np.radians(c.phase)) for c in constituents
    )
    return pd.Series(total, index=times, name="level")


def high_waters(series: pd.Series) -> pd.Series:
    """Give the local maxima of a series of levels."""
    inner = series.iloc[1:-1]
    is_peak = (inner.to_numpy() > series.iloc[:-2].to_numpy()) & (
        inner.to_numpy() >= series.iloc[2:].to_numpy()
    )
    return inner[is_peak]
