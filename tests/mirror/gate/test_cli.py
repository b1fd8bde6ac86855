"""The commands of the gate, and a gate that runs as a process of its own, behind the forwarder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lockfiles.errors import LockstockError
from mirror.commands import app
from mirror.config import load
from mirror.gate.keys import GateHome
from mirror.gate.places import Upstreams
from mirror.gate.policyfile import load_policy
from mirror.gate.tokens import parse
from tests.mirror.gate.harness import hello

FORWARDER = Path(__file__).parents[3] / "templates" / "gate" / "forwarder.py"
POLICY = """
mirror = true
[[allow]]
host = "api.example"
ports = [{port}]
address = "127.0.0.1"
[[allow]]
host = "unused.example"
ports = [443]
[expect]
pass = ["CONNECT api.example:{port}"]
fail = ["CONNECT other.example:443"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a mirror that holds one package, and a policy."""
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "lockstock.toml").write_text('[locks.app]\npath = "requirements.txt"\n')
    page = tmp_path / ".lockstock" / "tree" / "current" / "simple" / "idna"
    page.mkdir(parents=True)
    (page / "index.html").write_text("the page of idna")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, stdin: str = "") -> str:
    """Run a command in this process and give its stdout."""
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def stderr_of(*arguments: str) -> str:
    """Run a command in this process and give what it says."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def upstream_port() -> Iterator[int]:
    """A server on loopback that takes connections and gives one byte back for what comes."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(b"!")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def serving(project: Path, upstream_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A gate as a process of its own, on a socket; gives the socket."""
    policy = project / "policy.toml"
    policy.write_text(POLICY.format(port=upstream_port))
    place = Path(tmp_path_factory.mktemp("s")) / "gate.sock"
    posted = project / "posted"
    command = [
        sys.executable, "-m", "mirror", "gate", "serve", "--policy", str(policy), "--task", "build-1",
        "--socket", str(place), "--post", f"sh -c 'cat >> {posted}'",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as gate:
        assert gate.stderr
        line = gate.stderr.readline()
        assert "open at" in line, line + gate.stderr.read()
        yield place
        gate.send_signal(signal.SIGTERM)
        out, err = gate.communicate(timeout=20)
        assert gate.returncode == 0, err
        (project / "anchor").write_text(out)


def through_forwarder(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command beside the forwarder, with the environment that clients have in a sandbox."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"GATE": url, "https_proxy": url, "http_proxy": url, "HTTPS_PROXY": url, "no_proxy": ""}
    words = [sys.executable, "-I", str(FORWARDER), str(place), str(port), "--", *command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


LEFT_OPEN = """
import os, socket, sys, time
link = socket.create_connection(("127.0.0.1", int(os.environ["GATE"].rpartition(":")[2])))
if not os.fork():
    os.closerange(0, 3)
    time.sleep(5)
    os._exit(0)
time.sleep(0.2)
"""


def test_a_command_may_end_while_connections_are_open(serving: Path) -> None:
    ended = through_forwarder(serving, sys.executable, "-c", LEFT_OPEN)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_gate_from_start_to_proof(
    serving: Path, project: Path, upstream_port: int, request: pytest.FixtureRequest
) -> None:
    page = through_forwarder(serving, "sh", "-c", "curl -sS --noproxy '*' $GATE/simple/idna/")
    assert page.stdout == "the page of idna", page.stderr
    api = f"api.example:{upstream_port}"
    script = (
        "import socket,os,sys\n"
        "s=socket.create_connection(('127.0.0.1',int(os.environ['GATE'].rpartition(':')[2])))\n"
        f"s.sendall(b'CONNECT {api} HTTP/1.1\\r\\nHost: {api}\\r\\n\\r\\n')\n"
        "assert b'200' in s.recv(100)\n"
        f"s.sendall({hello('api.example')!r})\n"
        "assert s.recv(1) == b'!'\n"
    )
    tunnelled = through_forwarder(serving, sys.executable, "-c", script)
    assert tunnelled.returncode == 0, tunnelled.stderr
    for target in (
        "https://other.example/",
        "https://169.254.169.254/",
        "http://[::1]/",
        "https://127.0.0.1:1/",
    ):
        denied = through_forwarder(serving, "curl", "-sS", "--proxy-insecure", "-v", target)
        assert "lockstock" in denied.stdout + denied.stderr
    missing = through_forwarder(serving, "sh", "-c", "curl -sS --noproxy '*' $GATE/simple/requests/")
    assert "does not hold" in missing.stdout

    _end(request)
    anchor = project / "anchor"
    log = str(project / ".lockstock" / "gate" / "logs" / "build-1.jsonl")
    assert call("audit", "verify", log, "--anchor", str(anchor)) == anchor.read_text()
    vkey = json.loads(call("audit", "verify", log, "--json"))["key"]
    assert vkey.partition("+")[0].endswith("/build-1")
    assert anchor.read_text() in (project / "posted").read_text()

    why = json.loads(call("gate", "why", "build-1", "--json"))
    assert {one["kind"] for one in why} == {"host", "metadata service", "private address", "not in lock"}
    report = json.loads(call("gate", "touched", "build-1", "--json", "--html", "report.html"))
    assert [d["host"] for d in report["destinations"]] == ["api.example"]
    assert "api.example" in (project / "report.html").read_text()
    assert call("gate", "touched", "build-1")
    assert call("gate", "why", "build-1")
    assert json.loads(call("missing", "--json"))[0]["package"] == "requests"
    assert "requests" in call("missing")
    assert json.loads(call("gate", "replay", log, "--policy", "policy.toml", "--json")) == []
    stricter = json.loads(call("gate", "replay", log, "--policy", "test-run", "--json"))
    assert [one["target"] for one in stricter] == [f"CONNECT api.example:{upstream_port}"]
    (project / "tight.toml").write_text(call("gate", "tighten", log, "--policy", "policy.toml"))
    assert [str(a.pattern) for a in load_policy("tight.toml", {}).allows] == ["api.example"]

    Path(log).write_bytes(Path(log).read_bytes().replace(b"other.example", b"other.exbmple"))
    for command in (["gate", "touched", "build-1"], ["audit", "verify", log], ["missing"]):
        with pytest.raises(LockstockError) as caught:
            call(*command)
        assert caught.value.exit_code == 53


def _end(request: pytest.FixtureRequest) -> None:
    """End the gate now rather than after the test."""
    definition = request._get_active_fixturedef("serving")
    definition.finish(request)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/simple/idna/", 0), ("https://api.example:4430/x", 0), ("https://api.example/x", 51),
        ("http://169.254.169.254/", 51), ("https://2130706433/", 51), ("ftp://x/", 51),
    ],
)  # fmt: skip
def test_check(project: Path, url: str, code: int) -> None:
    (project / "policy.toml").write_text(POLICY.format(port=4430))
    if code == 0:
        assert json.loads(call("gate", "check", "policy.toml", url, "--json"))["verdict"] == "allow"
        assert "allow" in call("gate", "check", "policy.toml", url)
        return
    with pytest.raises(LockstockError) as caught:
        call("gate", "check", "policy.toml", url)
    assert caught.value.exit_code == code
    assert caught.value.hint


def test_check_runs_what_is_expected(project: Path) -> None:
    (project / "policy.toml").write_text(POLICY.format(port=4430))
    call("gate", "check", "policy.toml")
    call("gate", "check", "test-run")
    (project / "bad.toml").write_text('mirror = true\n[expect]\nfail = ["GET /simple/"]\n')
    with pytest.raises(LockstockError, match="must fail: GET /simple/"):
        call("gate", "check", "bad.toml")


def test_tokens_from_mint_to_revocation(project: Path) -> None:
    made = call("token", "mint", "build-7", "--expires", "2h", "--policy", "test-run", "--locked").strip()
    narrowed = call("token", "narrow", "-", "--expires", "5m", "--operations", "mirror", stdin=made).strip()
    assert parse(narrowed).caveats[: len(parse(made).caveats)] == parse(made).caveats
    told = json.loads(call("token", "inspect", narrowed, "--json"))
    assert "task = build-7" in told["caveats"]
    assert "build-7" in call("token", "inspect", narrowed)
    call("token", "rotate", "--overlap", "1h")
    call("token", "revoke", "build-7")
    home = GateHome(project / ".lockstock" / "gate")
    assert home.revoked() == {"build-7"}
    assert len(home.token_keys(time.time())) == 2
    log = project / ".lockstock" / "gate" / "logs" / "tokens.jsonl"
    assert "verified 3 records" in stderr_of("audit", "verify", str(log))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["action"] for event in events] == ["mint", "rotate", "revoke"]
    assert events[0]["caveats"] == list(parse(made).caveats)
    assert made not in log.read_text()
    log.write_text(log.read_text().replace("build-7", "build-8"))
    with pytest.raises(LockstockError, match="not those that were signed"):
        call("audit", "verify", str(log))


def test_a_broken_log_stops_minting_and_no_revocation(project: Path) -> None:
    call("token", "mint", "build-7")
    log = project / ".lockstock" / "gate" / "logs" / "tokens.jsonl"
    log.write_text(log.read_text().replace("build-7", "build-8"))
    with pytest.raises(LockstockError, match="not what was signed"):
        call("token", "mint", "build-7")
    with pytest.raises(LockstockError, match="not what was signed"):
        call("token", "revoke", "build-7")
    assert GateHome(project / ".lockstock" / "gate").revoked() == {"build-7"}


def test_a_broken_key_of_the_log_stops_no_revocation(project: Path) -> None:
    call("token", "mint", "build-7")
    home = GateHome(project / ".lockstock" / "gate")
    (home.root / "log.key").write_text("x")
    with pytest.raises(LockstockError, match="key cannot be used"):
        call("token", "revoke", "build-7")
    assert home.revoked() == {"build-7"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "inspect", "nonsense"], ["token", "mint", "A B"],
        ["token", "mint", "x", "--expires", "soon"],
        ["token", "mint", "x", "--operations", "all"], ["token", "revoke", "a b"],
        ["gate", "serve", "--policy", "test-run", "--task", "tokens", "--socket", "s"],
        ["gate", "serve", "--policy", "test-run"],
        ["gate", "serve", "--policy", "test-run", "--socket", "x"],
        ["gate", "serve", "--policy", "test-run", "--listen", "x"],
        ["gate", "serve", "--policy", "none.toml", "--listen", "127.0.0.1:0"],
        ["gate", "serve", "--policy", "lockstock.toml", "--listen", "127.0.0.1:0"],
        ["gate", "why", "nobody"], ["audit", "verify", "none.jsonl"], ["audit", "verify", "x", "--key", "y"],
    ],
)  # fmt: skip
def test_mistakes_are_told(project: Path, arguments: list[str]) -> None:
    with pytest.raises(LockstockError) as caught:
        call(*arguments)
    assert 50 <= caught.value.exit_code < 60


def test_a_gate_on_tcp_asks_for_a_token(project: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mirror",
        "gate",
        "serve",
        "--policy",
        "test-run",
        "--listen",
        f"127.0.0.1:{port}",
    ]
    token = call("token", "mint", "ci").strip()
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as gate:
        assert gate.stderr
        assert "open at" in gate.stderr.readline()
        url = f"http://127.0.0.1:{port}/simple/idna/"
        curl = ["curl", "-sS", "--noproxy", "*", "-w", "%{http_code}"]
        assert subprocess.check_output([*curl, "-o", "/dev/null", url], text=True) == "401"
        netrc = project / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login token password {token}\n")
        for carrier in (
            ["-H", f"Authorization: Bearer {token}"],
            ["-u", f"x:{token}"],
            ["--netrc-file", str(netrc)],
        ):
            assert subprocess.check_output([*curl, *carrier, url], text=True) == "the page of idna200"
        call("token", "revoke", "ci")
        assert (
            subprocess.check_output([*curl, "-o", "/dev/null", "-u", f"x:{token}", url], text=True) == "401"
        )
        gate.terminate()
        out, err = gate.communicate(timeout=20)
        assert gate.returncode == 0, err
    (project / "note").write_text(out)
    log = str(project / ".lockstock" / "gate" / "logs" / "gate.jsonl")
    call("audit", "verify", log, "--anchor", "note")
    assert token not in Path(log).read_text()


PIP = [sys.executable, "-m", "pip", "--isolated", "download", "-v", "--retries=1", "--no-cache-dir", "-i"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([*PIP, "https://other.example/simple/", "idna"], "other.example is not in the policy"),
        (["curl", "-sS", "http://other.example/"], "other.example is not in the policy"),
        (["curl", "-sSv", "https://other.example/"], "other.example is not in the policy"),
        (["git", "ls-remote", "http://other.example/x.git"], "other.example is not in the policy"),
        # Of a proxy these two tell the status alone: the forwarder says the rest.
        (
            ["curl", "-sS", "https://other.example/"],
            "\nlockstock: other.example is not in the policy (policy",
        ),
        (
            ["git", "ls-remote", "https://other.example/x.git"],
            "\nlockstock: other.example is not in the policy",
        ),
        pytest.param(
            ["npm", "view", "thing", "--registry=https://other.example/", "--fetch-retries=0"],
            "other.example is not in the policy",
            marks=pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed"),
        ),
    ],
)
def test_clients_show_why_they_are_denied(serving: Path, command: list[str], told: str) -> None:
    ended = through_forwarder(serving, *command)
    assert told in f"\n{ended.stdout}\n{ended.stderr}"


def test_a_reason_is_said_once(serving: Path) -> None:
    script = "for i in 1 2 3; do curl -sS https://other.example/; done; curl -sS https://else.example/"
    told = through_forwarder(serving, "sh", "-c", script).stderr
    assert told.count("lockstock: other.example is not in the policy") == 1
    assert told.count("lockstock: else.example is not in the policy") == 1


def test_the_forwarder_gives_the_exit_code(tmp_path: Path) -> None:
    assert through_forwarder(tmp_path / "none", "sh", "-c", "exit 7").returncode == 7
    assert through_forwarder(tmp_path / "none", "sh", "-c", "kill -9 $$").returncode == 137
    assert through_forwarder(tmp_path / "none", "no-such-command").returncode == 127


def test_upstreams_are_those_of_the_users_own_clients(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@index.example/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    upstreams = Upstreams(load(Path("lockstock.toml")))
    assert "https://index.example/simple" in upstreams["pip"]
    assert not any("secret" in url for url in upstreams["pip"])
    policy = load_policy("dependency-update", upstreams)
    assert "index.example" in {str(allow.pattern) for allow in policy.allows}
    assert policy.routes[0].methods == ("GET", "HEAD")
