"""What others use an image with: parsed as its readers do, and without a network."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagegen.consumers import Consumer, Use, render
from tests.imagegen.stocked import StockedProject
from tests.wheels import make_wheel

PINNED = f"registry.example/team/dev@sha256:{'0' * 64}"
CHECKS = ("pytest -q", "echo 'a: \"b\"' && test $HOME = /tmp # {{ x }}\ntrue")
USE = Use(name="my_app.dev", reference=PINNED, pushed=True, user="sandbox", checks=CHECKS)
LOCAL = Use(name="dev", reference="lockstock/dev:latest", pushed=False, user="sandbox", checks=CHECKS)


def documents(consumer: Consumer, use: Use = USE) -> list[Any]:
    return list(yaml.safe_load_all(render(consumer, use)))


def test_devcontainer() -> None:
    found = json.loads(render(Consumer.DEVCONTAINER, USE))

    assert (found["image"], found["remoteUser"], found["name"]) == (PINNED, "sandbox", "my_app.dev")
    assert "--network=none" in found["runArgs"]
    assert found["workspaceFolder"] == "/workspace"
    assert found["workspaceMount"] == "source=${localWorkspaceFolder},target=/workspace,type=bind"


@pytest.mark.parametrize(("use", "policy"), [(USE, "if_not_present"), (LOCAL, "never")])
def test_compose(use: Use, policy: str) -> None:
    (found,) = documents(Consumer.COMPOSE, use)

    assert list(found["services"]) == [use.label]
    service = found["services"][use.label]
    assert (service["image"], service["pull_policy"]) == (use.reference, policy)
    assert service["network_mode"] == "none"
    assert "networks" not in service
    assert "ports" not in service
    assert service["init"] is True
    assert service["volumes"] == [".:/workspace"]


@pytest.mark.parametrize(("use", "policy"), [(USE, "IfNotPresent"), (LOCAL, "Never")])
def test_kubernetes(use: Use, policy: str) -> None:
    found = {document["kind"]: document for document in documents(Consumer.KUBERNETES, use)}

    pod, network = found["Pod"], found["NetworkPolicy"]
    labels = network["spec"]["podSelector"]["matchLabels"]
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert labels
    assert sorted(network["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    assert not {"ingress", "egress"} & set(network["spec"])  # no rule lets anything through
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == (use.reference, policy)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    security = pod["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 1000, 1000)
    assert pod["spec"]["automountServiceAccountToken"] is False
    for name in (pod["metadata"]["name"], network["metadata"]["name"]):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)


def test_github() -> None:
    (found,) = documents(Consumer.GITHUB)

    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert job["env"]["IMAGE"] == PINNED
    assert job["steps"][1]["run"] == 'docker pull --quiet "$IMAGE"'
    runs = job["steps"][2:]
    assert [step["name"] for step in runs] == list(CHECKS)
    for step, check in zip(runs, CHECKS, strict=True):
        words = shlex.split(step["run"], comments=True)
        assert words[words.index("--network") + 1] == "none"
        assert words[-3:] == ["bash", "-c", check]


@pytest.mark.parametrize("name", ["12", "on", "null", "3d.service"])
def test_names_that_are_none_of_yaml_or_of_jobs(name: str) -> None:
    use = replace(USE, name=name)

    (compose,) = documents(Consumer.COMPOSE, use)
    policy, pod = documents(Consumer.KUBERNETES, use)
    (workflow,) = documents(Consumer.GITHUB, use)

    assert list(compose["services"]) == [use.label]
    assert pod["metadata"]["name"] == use.label
    assert pod["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
    assert set(pod["metadata"]["labels"].values()) == {use.label}
    assert all(re.fullmatch(r"[A-Za-z_][\w-]*", str(job)) for job in workflow["jobs"])


@pytest.fixture
def project(tmp_path: Path) -> StockedProject:
    made = StockedProject(tmp_path)
    made.stock({"app": [make_wheel(tmp_path / "up", "alpha", "1.0")]})
    made.configure('[images.dev]\nbase = "debian:bookworm"\nlocks = ["app"]\n')
    return made


class TestCommand:
    def test_the_digest_that_was_pushed(self, project: StockedProject) -> None:
        lock = {"images": {"dev": [{"reference": PINNED, "tags": ["latest"]}]}}
        (project.folder / "images.lock").write_text(json.dumps(lock))

        ended = project.imagegen("render", "dev", "--for", "devcontainer")

        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout)["image"] == PINNED

    def test_an_image_that_was_not_pushed(self, project: StockedProject) -> None:
        ended = project.imagegen("render", "dev", "--for", "compose")

        assert yaml.safe_load(ended.stdout)["services"]["dev"]["image"] == "lockstock/dev:latest"
        assert "note: it was not pushed" in ended.stderr

    def test_a_job_needs_one_that_was(self, project: StockedProject) -> None:
        ended = project.imagegen("render", "dev", "--for", "github")

        assert (ended.returncode, ended.stdout) == (46, "")
        assert "imagegen push dev HOST/NAME" in ended.stderr

    @pytest.mark.parametrize("arguments", [(), ("--for", "compose", "-o", "out")])
    def test_one_of_two_outputs(self, project: StockedProject, arguments: tuple[str, ...]) -> None:
        assert project.imagegen("render", "dev", *arguments).returncode == 2
