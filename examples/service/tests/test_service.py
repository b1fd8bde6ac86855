import pandas as pd
import pytest
from fastapi.testclient import TestClient
from harbour.app import app
from harbour.tides import HARBOURS, high_waters, levels

client = TestClient(app)
START = "2026-03-01T00:00:00"


def test_two_high_waters_a_day_in_a_semidiurnal_harbour():
    found = high_waters(levels("northport", pd.Timestamp(START), 24 * 7))
    gaps = found.index.to_series().diff().dropna()
    assert 13 <= len(found) <= 14
    assert gaps.between(pd.Timedelta(hours=12), pd.Timedelta(hours=13)).all()


@pytest.mark.parametrize("name", sorted(HARBOURS))
def test_levels_stay_within_the_sum_of_amplitudes(name):
    bound = sum(c.amplitude for c in HARBOURS[name])
    assert levels(name, pd.Timestamp(START), 24 * 30).abs().max() <= bound


def test_the_table_over_http():
    answer = client.get("/harbours/northport/high-waters", params={"start": START, "hours": 48})
    assert answer.status_code == 200
    assert len(answer.json()) in (3, 4)
    assert client.get("/harbours").json() == ["northport", "southquay"]


def test_mistakes_are_answered_as_such():
    assert client.get("/harbours/atlantis/high-waters", params={"start": START}).status_code == 404
    assert (
        client.get("/harbours/northport/high-waters", params={"start": START, "hours": 10**6}).status_code
        == 422
    )
