"""Putting a gate together: secrets, expectations, and checkpoints that are posted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from mirror.config import Config, load
from mirror.gate.audit import split_notes, verify
from mirror.gate.errors import GateError, PolicyError
from mirror.gate.policy import Policy
from mirror.gate.policyfile import parse_policy
from mirror.gate.running import Door, home_of, open_gate, route_secrets
from tests.mirror.gate.harness import Resolver, Running

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
