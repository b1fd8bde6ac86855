"""Putting a gate together: secrets, expectations, and checkpoints that are posted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from mirror.config import Config, load
from mirror.gate.audit import split_notes, verify
from mirror.gate.errors import GateError, PolicyError
from mirror.gate.keys import GateHome
from mirror.gate.note import Verifier
from mirror.gate.packages import Current
from mirror.gate.policy import Policy
from mirror.gate.policyfile import parse_policy
from mirror.gate.running import Door, home_of, open_gate, route_secrets
from mirror.layout import Layout
from mirror.publish.pages import file_path
from tests.mirror.gate.harness import Resolver, Running
from tests.mirror.stocking import publish_tree, stock, stocked
from tests.wheels import make_wheel

pytestmark = pytest.mark.anyio


def routed(credential: str) -> Policy:
    text = '[[route]]\nname = "r"\nupstream = "https://r.example"\ncredential = ' + credential
    return parse_policy("p.toml", text, {})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "lockstock.toml").write_text('[locks.app]\npath = "requirements.txt"\n')
    return load(tmp_path / "lockstock.toml")


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    assert route_secrets(routed('{ env = "S", scheme = "Bearer" }'), {"S": "x y"}) == {"r": "Bearer x y"}
    assert route_secrets(routed(f'{{ file = "{tmp_path}/secret" }}'), {}) == {"r": "from-file"}
    assert route_secrets(parse_policy("p.toml", "", {}), {}) == {}


@pytest.mark.parametrize("value", [None, "", "a\nX-Evil: 1", "a\x00", "é"])
def test_secrets_that_cannot_be_sent(value: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        route_secrets(routed('{ env = "S" }'), {} if value is None else {"S": value})
    assert "X-Evil" not in str(caught.value)


async def test_no_gate_opens_whose_policy_is_not_what_it_says(config: Config) -> None:
    broken = parse_policy("p.toml", 'mirror = true\n[expect]\nfail = ["GET /simple/"]', {})
    with pytest.raises(PolicyError, match="must fail: GET /simple/"):
        async with open_gate(config, broken, Door(host="127.0.0.1")):
            pytest.fail("it opened")


async def test_checkpoints_are_posted_and_a_failing_command_stops_nothing(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = parse_policy("p.toml", "", {})
    script = f"import sys; open({str(tmp_path / 'posted')!r}, 'a').write(sys.stdin.read())"
    door = Door(task="t", socket=tmp_path / "s")
    for command in (shlex.join([sys.executable, "-c", script]), "false", "no-such-command"):
        async with open_gate(config, policy, door, command) as gate:
            run = Running(gate, gate.core._log, tmp_path / "s", 0, Resolver())
            assert (await run.ask("GET", "/"))[0] == 403
    assert capfd.readouterr().err.count("could not be posted") >= 2
    home = home_of(config)
    signer = home.signer()
    verifier = signer.named(f"{signer.name}/t").verifier
    posted = list(split_notes((tmp_path / "posted").read_text()))
    assert len(posted) == 2  # of the new log, and at its end
    for note in posted:
        assert verify(home.log("t"), verifier, anchor=note).after_anchor


async def test_a_socket_that_cannot_be(config: Config, tmp_path: Path) -> None:
    door = Door(task="t", socket=tmp_path / ("x" * 120))
    with pytest.raises(GateError, match="cannot listen"):
        async with open_gate(config, parse_policy("p.toml", "", {}), door):
            pytest.fail("it opened")


async def test_a_refresh_while_a_gate_runs(config: Config, tmp_path: Path) -> None:
    """What a new snapshot brings is known at once, and what the one before it had is known still."""
    layout = Layout(config.root)
    first, second = (make_wheel(tmp_path / name, name, "1.0") for name in ("alpha", "beta"))

    def refresh(wheel: Path) -> None:
        name = stock(layout, wheel)
        publish_tree(layout, name, layout.snapshots.load(name))

    refresh(first)
    home, policy = home_of(config), parse_policy("p.toml", "mirror = true", {})
    door = Door(task="t", socket=tmp_path / "s")
    async with open_gate(config, policy, door) as gate:
        running = Running(gate, gate.core._log, tmp_path / "s", 0, Resolver())
        assert (await running.ask("GET", "/simple/beta/"))[0] == 404
        lock = Current(layout).lock()
        refresh(second)
        for wheel in (first, second):
            path = file_path(stocked(wheel))
            assert await running.send(
                f"GET /{path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n".encode()
            )
        found = [record["package"] for record in running.records("served") if "package" in record]
        assert found == ["alpha", "beta"]
        shelf = gate.core.settings.shelf
        assert isinstance(shelf, Current)
        assert shelf.lock() == lock  # the same lock, which names other files now
        layout.snapshots.drop(str(layout.snapshots.current_name()))
        assert (await running.ask("GET", "/simple/beta/"))[0] == 200
    assert verify(home.log("t"), _verifier(home, "t")).unsealed == 0


def _verifier(home: GateHome, name: str) -> Verifier:
    known = home.verifier()
    return Verifier(f"{known.name}/{name}", known.public)
