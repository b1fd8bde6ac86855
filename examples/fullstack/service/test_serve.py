from serve import app
from starlette.testclient import TestClient


def test_the_built_page_and_its_service() -> None:
    client = TestClient(app)
    assert "Tides" in client.get("/").text
    assert client.get("/tide", params={"hours": 0}).json() == {"height": 2.0}
