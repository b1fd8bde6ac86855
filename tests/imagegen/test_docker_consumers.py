"""What `render --for` prints, done with a real container as its reader would do it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from imagegen.consumers import Consumer, Use, render
from tests.imagegen.conftest import Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]
CHECKS = ("alpha && test -f hello.txt", "touch made && python -m venv /tmp/v && /tmp/v/bin/pip install alpha")
INSIDE = "alpha && test $PWD = /workspace && ! ls /sys/class/net | grep -v lo"


def rendered(sandbox: Sandbox, consumer: Consumer) -> str:
    use = Use(name="dev", reference=sandbox.reference, pushed=False, user="sandbox", checks=CHECKS)
    return render(consumer, use)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Somebody's checkout of the project, which everybody may write to."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "hello.txt").write_text("hello\n")
    folder.chmod(0o777)
    return folder


def test_the_job_of_a_ci_runs_every_check(sandbox: Sandbox, checkout: Path) -> None:
    (job,) = yaml.safe_load(rendered(sandbox, Consumer.GITHUB))["jobs"].values()

    for step in job["steps"][2:]:  # after the checkout and the pull
        ran = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=checkout, env={**os.environ, **job["env"]},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr

    assert (checkout / "made").stat().st_uid == os.getuid()


def test_a_devcontainer(sandbox: Sandbox, checkout: Path) -> None:
    found = json.loads(rendered(sandbox, Consumer.DEVCONTAINER))
    mount = found["workspaceMount"].replace("${localWorkspaceFolder}", str(checkout))
    options = [f"--security-opt={option}" for option in found["securityOpt"]]
    options += [*found["runArgs"], "--init", f"--mount={mount}", f"--workdir={found['workspaceFolder']}"]

    ran = subprocess.run(
        ["docker", "run", "--rm", *options, f"--user={found['remoteUser']}", found["image"], "bash", "-c",
         f"{INSIDE} && test -f hello.txt && touch made"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert (checkout / "made").stat().st_uid == 1000


@dataclass(frozen=True)
class Compose:
    """A folder with a compose.yaml of one service."""

    folder: Path

    def __call__(self, *words: str) -> str:
        """Run docker-compose, which must go well, and give what it prints."""
        ended = subprocess.run(
            ["docker-compose", "--project-name", "pytest-compose", *words],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def inside(self, how: str, script: str) -> str:
        """Run a script in the service."""
        (service,) = self("config", "--services").split()
        return self(how, *(["--rm"] if how == "run" else []), "-T", service, "bash", "-c", script)


class TestCompose:
    """With docker-compose itself, which runs what its users would."""

    @pytest.fixture
    def compose(self, sandbox: Sandbox, checkout: Path) -> Iterator[Compose]:
        (checkout / "compose.yaml").write_text(rendered(sandbox, Consumer.COMPOSE))
        (checkout / "requirements.txt").write_text("alpha==1.0\n")
        compose = Compose(checkout)
        yield compose
        compose("down", "--timeout", "1")

    def test_it_is_understood(self, compose: Compose, sandbox: Sandbox) -> None:
        ((_, service),) = yaml.safe_load(compose("config"))["services"].items()

        assert (service["image"], service["network_mode"]) == (sandbox.reference, "none")

    def test_a_service_that_is_up(self, compose: Compose) -> None:
        compose("up", "--detach")

        assert compose.inside("exec", f"{INSIDE} && test -f hello.txt && touch made") == "2.1"
        assert (compose.folder / "made").stat().st_uid == 1000
        assert compose.inside("exec", "cat /proc/1/comm") == "docker-init"

    def test_a_run(self, compose: Compose) -> None:
        install = "python -m venv /tmp/v && /tmp/v/bin/pip install --quiet -r requirements.txt"

        assert compose.inside("run", f"{install} && /tmp/v/bin/alpha") == "2.1"


def test_a_pod(sandbox: Sandbox, tmp_path: Path) -> None:
    documents = yaml.safe_load_all(rendered(sandbox, Consumer.KUBERNETES))
    (spec,) = (document["spec"] for document in documents if document["kind"] == "Pod")
    (container,) = spec["containers"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    (workspace,) = container["volumeMounts"]
    # A cluster gives an empty volume to the group.
    os.chown(tmp_path, -1, spec["securityContext"]["fsGroup"])
    tmp_path.chmod(0o2770)

    made = sandbox.engine.client.containers.run(
        container["image"],
        # A pod's `command` takes the place of an image's entry point.
        entrypoint=container["command"],
        detach=True,
        network_mode="none",  # as the policy has it
        user=f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}",
        working_dir=container["workingDir"],
        cap_drop=container["securityContext"]["capabilities"]["drop"],
        security_opt=["no-new-privileges"],
        volumes=[f"{tmp_path}:{workspace['mountPath']}"],
    )
    try:
        code, said = made.exec_run(["bash", "-c", f"{INSIDE} && touch made && id -u"])
    finally:
        made.remove(force=True)

    assert (code, said.decode().splitlines()[-1]) == (0, "1000"), said
