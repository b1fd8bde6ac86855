"""Verify proves what an image is for, and says what does not hold."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from imagegen.context import guest_program
from tests.imagegen.conftest import IMAGE, NAME, Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
LABEL = "io.lockstock.verify"


@pytest.fixture(autouse=True)
def _configuration(sandbox: Sandbox) -> None:
    sandbox.project.configure(IMAGE)


def with_checks(sandbox: Sandbox, *checks: str) -> None:
    sandbox.project.configure("\n".join(line for line in IMAGE.splitlines() if not line.startswith("checks")))
    with (sandbox.project.folder / "lockstock.toml").open("a") as file:
        file.write(f"\nchecks = {json.dumps(checks)}\n")


def test_everything_holds(sandbox: Sandbox) -> None:
    report = sandbox.project.json("verify", NAME)

    assert report["ok"] is True
    assert [check["name"] for check in report["checks"]] == [
        "nothing outside is reachable",
        "pip check",
        "imports",
        "re-install from the baked wheels",
        "test -f hello.txt && test ! -e .git",
    ]
    assert "OPEN" not in report["checks"][0]["output"]
    assert "tcp 169.254.169.254:80: Network is unreachable" in report["checks"][0]["output"]
    assert json.loads((sandbox.project.layout.root / "reports" / f"{NAME}.json").read_text()) == report
    assert sandbox.engine.client.containers.list(all=True, filters={"label": LABEL}) == []


def test_it_is_of_what_was_built_last_though_that_went_elsewhere(sandbox: Sandbox) -> None:
    sandbox.project.configure(f"{IMAGE}compile = false\n")
    built = sandbox.project.json("build", NAME, "-o", f"oci:{sandbox.project.folder}/elsewhere")
    assert sandbox.engine.find(built["reference"]) is None

    report = sandbox.project.json("verify", NAME)

    assert (report["ok"], report["image"], report["engine"]) == (True, built["image"], "docker")


def test_the_report_as_text(sandbox: Sandbox) -> None:
    ended = sandbox.project.imagegen("verify", NAME)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("✓") == 5
    assert "none got out" in ended.stdout


def test_a_failed_check_is_shown_with_its_output(sandbox: Sandbox) -> None:
    with_checks(sandbox, "true", "echo what went wrong; exit 3")

    ended = sandbox.project.imagegen("verify", NAME, "--junit", "out/report.xml")

    assert ended.returncode == 43
    suite = Xml.parse(sandbox.project.folder / "out/report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("6", "1")
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None] == [
        "echo what went wrong; exit 3"
    ]
    assert {one.get("name"): one.get("value") for one in suite.iter("property")}["engine"] == "docker"
    assert ended.stdout.count("✗") == 1
    assert "│ what went wrong" in ended.stderr
    assert "1 of 6 checks failed: echo what" in ended.stderr
    assert json.loads((sandbox.project.layout.root / "reports" / f"{NAME}.json").read_text())["ok"] is False
    assert sandbox.engine.client.containers.list(all=True, filters={"label": LABEL}) == []


def test_a_check_that_kills_all_is_one_that_failed(sandbox: Sandbox) -> None:
    with_checks(sandbox, "kill -KILL -1; sleep 60", "true")

    ended = sandbox.project.imagegen("verify", NAME)

    assert ended.returncode == 43
    report = json.loads((sandbox.project.layout.root / "reports" / f"{NAME}.json").read_text())
    assert [check["ok"] for check in report["checks"]] == [True] * 4 + [False] * 2
    assert "the container has ended: something in it has killed" in report["checks"][-1]["output"]
    assert sandbox.engine.client.containers.list(all=True, filters={"label": LABEL}) == []


def test_a_broken_module_is_found_and_can_be_skipped(sandbox: Sandbox) -> None:
    code, output = sandbox.run(
        "cat > /opt/lockstock/venv/lib/python3.11/site-packages/alpha.py <<< 'raise RuntimeError(1)'\n"
        f"cat > /tmp/imports.py <<'END'\n{guest_program('imports.py').decode()}\nEND\n"
        "python /tmp/imports.py; echo $?; python /tmp/imports.py alpha"
    )

    assert code == 0, output
    assert "alpha (alpha): RuntimeError: 1" in output
    assert "1 failed\n1\n" in output
    assert output.endswith(" 0 failed\n")


def test_an_open_network_is_found(sandbox: Sandbox) -> None:
    """In a network that reaches this host only, so that nothing is sent outside."""
    client = sandbox.engine.client
    network = client.networks.create("lockstock-pytest", internal=True, labels={"lockstock": "pytest"})
    try:
        network.reload()
        gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
        assert gateway in sandbox.engine.gateways()
        container = client.containers.create(
            sandbox.reference, ["sleep", "60"], network=network.name, use_config_proxy=False
        )
        try:
            container.start()
            code, output = container.exec_run(
                ["python3", "-c", guest_program("isolation.py").decode(), gateway]
            )
        finally:
            container.remove(force=True)
    finally:
        network.remove()

    assert code == 1
    assert "OPEN  interfaces: lo, eth0" in output.decode()
    assert "OPEN  routes outward: eth0" in output.decode()
    assert f"OPEN  tcp {gateway}:" in output.decode()


def test_killed_and_run_again(sandbox: Sandbox) -> None:
    with_checks(sandbox, "sleep 30")
    client = sandbox.engine.client
    with subprocess.Popen(
        sandbox.project.command("verify", NAME), cwd=sandbox.project.folder, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not client.containers.list(filters={"label": LABEL}) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    left = client.containers.list(all=True, filters={"label": LABEL})
    assert len(left) == 1

    sandbox.project.configure(IMAGE)
    assert sandbox.project.json("verify", NAME)["ok"] is True
    assert client.containers.list(all=True, filters={"label": LABEL}) == []


def test_an_image_that_was_not_built(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.project.configure(IMAGE.replace(NAME, "pytest-unbuilt"))

    ended = sandbox.project.imagegen("verify", "pytest-unbuilt")

    assert ended.returncode == 46
    assert "run `imagegen build pytest-unbuilt`" in ended.stderr


def test_list_tells_what_verify_found(sandbox: Sandbox) -> None:
    sandbox.project.json("verify", NAME)

    assert sandbox.project.json("list") == [
        {"base": "debian:bookworm", "locks": ["app"], "name": NAME, "verified": True}
    ]
