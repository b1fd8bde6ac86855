"""Status, doctor, hooks and schedules."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lockfiles.errors import ConfigError
from mirror.commands import app
from mirror.errors import DiskFullError
from mirror.hooks import run_hooks
from mirror.layout import Layout
from mirror.runs import Run, last_run, noted
from mirror.schedule import Job, Scheduler, render
from mirror.status import read_status
from tests.index_server import Answer, IndexServer
from tests.mirror.stocking import stock
from tests.project import Project
from tests.wheels import make_wheel


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "1.0")


def examined(project: Project, code: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Run the doctor and give grades and messages by topic."""
    ended = project.mirror("doctor", "--json")
    assert ended.returncode == code, ended.stderr + ended.stdout
    found: dict[str, list[tuple[str, str]]] = {}
    for item in json.loads(ended.stdout):
        found.setdefault(item["topic"], []).append((item["grade"], item["message"]))
        assert item["hint"] or item["grade"] == "ok"
    return found


def test_all_is_well(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    index.pages["/simple/"] = b"<html></html>"
    found = examined(project)
    assert list(found) == ["configuration", "permissions", "disk", "upstreams", "clock", "devpi", "docker"]
    of_this_machine = ("disk", "docker")
    assert {t: g for t, g in found.items() if t not in of_this_machine and g[0][0] != "ok"} == {}
    assert not project.layout.root.exists()
    shown = project.mirror("doctor")
    assert "ok       configuration" in shown.stdout


def test_no_configuration_stops_the_doctor(project: Project) -> None:
    project.config.write_text("[mirror]\nkep = 1\n")
    assert examined(project, 36) == {
        "configuration": [("failed", "lockstock.toml:2: mirror.kep: unknown key")]
    }


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda a: a.send(401), "refuses access"),
        (lambda a: a.send(503), "answers 503"),
        (Answer.cut, "stopped before it answered"),
    ],
)
def test_upstreams_that_do_not_serve(
    project: Project, index: IndexServer, flask: Path, fault: Any, words: str
) -> None:
    project.lock(flask)
    project.upstream(index.index.replace("//", "//reader:hunter2@"))
    index.faults["/simple/"] = fault
    ((grade, message),) = examined(project, 36)["upstreams"]
    assert (grade, words in message, "hunter2" in message) == ("failed", True, False)


def test_npms_registry_is_asked_where_a_lock_is_npms(project: Project, index: IndexServer) -> None:
    (project.folder / "package-lock.json").write_text("{}")
    project.configure(more="[locks.web]\npath = 'package-lock.json'\n")
    project.lock()
    project.environment["NPM_CONFIG_REGISTRY"] = f"{index.url}/npm"
    project.environment["NPM_CONFIG_USERCONFIG"] = os.devnull
    index.pages["/simple/"] = b"<html></html>"
    index.faults["/npm/"] = lambda answer: answer.send(503)
    told = examined(project, 36)["upstreams"]
    assert [(grade, message.partition(" ")[0]) for grade, message in told] == [
        ("failed", f"{index.url}/npm"),
        ("ok", index.index),
    ]


def test_status_tells_what_changed_since_and_that_an_older_snapshot_is_served(
    project: Project, flask: Path, wheels: Path
) -> None:
    project.lock(flask)
    first = project.refreshed()["snapshot"]
    assert re.search(r"not up to date +none", project.mirror("status").stdout)
    project.lock(flask, make_wheel(wheels, "click", "8.0"))
    assert re.search(r"not up to date +requirements\.txt", project.mirror("status").stdout)
    second = project.refreshed()["snapshot"]
    assert re.search(r"not up to date +none", project.mirror("status").stdout)
    assert project.mirror("rollback", first).returncode == 0
    shown = project.mirror("status").stdout
    assert f"{first}; the newest is {second}" in shown
    assert re.search(r"not up to date +requirements\.txt", shown)
    told = json.loads(project.mirror("status", "--json").stdout)
    assert [Path(path).name for path in told["changed_locks"]] == ["requirements.txt"]


def test_a_snapshot_that_is_pruned_meanwhile_is_not_counted(tmp_path: Path, flask: Path) -> None:
    layout = Layout(tmp_path / "mirror")
    name = stock(layout, flask)
    (layout.snapshots.root / "0002-gone.json").symlink_to("nowhere")
    assert [stock.name for stock in read_status(layout).snapshots] == [name]


def test_a_clock_that_is_wrong(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)

    def two_hours_ago(answer: Answer) -> None:
        answer.handler.date_time_string = lambda *_: formatdate(time.time() - 7200, usegmt=True)  # type: ignore[method-assign]  # a clock for one answer
        answer.send(200)

    index.faults["/simple/"] = two_hours_ago
    ((grade, message),) = examined(project, 36)["clock"]
    assert (grade, bool(re.match(r"this clock is 7[12]\d\d s ahead", message))) == ("failed", True)


@pytest.mark.root
def test_a_disk_with_little_room(project: Project, index: IndexServer, flask: Path) -> None:
    project.lock(flask)
    index.pages["/simple/"] = b"<html></html>"
    root = project.layout.root
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(root)], check=True)
    try:
        assert examined(project)["disk"][0][0] == "ok"
        with (root / "large").open("wb") as large:
            os.posix_fallocate(large.fileno(), 0, 60_000_000)
        assert examined(project)["disk"] == [("warning", "44.9 MB of 104.9 MB are free")]
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_port_of_another_program(project: Project, index: IndexServer, flask: Path) -> None:
    project.configure()
    project.lock(flask)
    project.refreshed()
    project.port = int(index.url.rpartition(":")[2])
    project.configure()
    assert examined(project, 36)["devpi"][0][0] == "failed"


def test_a_damaged_snapshot_and_a_refresh_that_failed(project: Project, flask: Path) -> None:
    project.lock(flask, changed={flask.name: "0" * 64})
    assert project.mirror("refresh").returncode == 20
    assert examined(project, 0)["refresh"][0][0] == "warning"
    name = stock(project.layout, flask)
    (project.layout.snapshots.root / f"{name}.json").write_text("{")
    assert examined(project, 36)["snapshots"][0][0] == "failed"


def test_a_run_that_a_person_stops_is_noted_as_such(
    project: Project, index: IndexServer, flask: Path
) -> None:
    project.lock(flask)
    index.faults["/simple/flask/"] = lambda answer: time.sleep(60)
    running = project.start("refresh")
    while not index.requests:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert running.stderr is not None
    assert "interrupted; nothing half-done" in running.stderr.read()
    noted = last_run(project.layout)
    assert noted is not None
    assert (noted.exit_code, noted.reason, noted.succeeded) == (130, "interrupted", None)


@pytest.mark.parametrize("program", ["mirror", "imagegen"])
def test_one_that_is_stopped_while_it_starts_says_so(program: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", program, "--help"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        while not running.stderr.readline().endswith(" typer\n"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
    assert running.returncode == 130
    assert "interrupted; nothing half-done" in said
    assert "Traceback" not in said


def test_a_run_is_noted_with_its_end(project: Project, flask: Path) -> None:
    project.lock(flask)
    name = project.refreshed()["snapshot"]
    good = last_run(project.layout)
    assert good is not None
    assert (good.exit_code, good.snapshot, good.changed, good.succeeded) == (0, name, True, good.ended)
    project.lock(flask, changed={flask.name: "0" * 64})
    assert project.mirror("refresh").returncode == 20
    bad = last_run(project.layout)
    assert bad is not None
    assert (bad.exit_code, "flask" in bad.reason, bad.succeeded) == (20, True, good.ended)
    with Layout(project.layout.root).exclusive():
        assert project.mirror("refresh").returncode == 32
    assert last_run(project.layout) == bad
    (project.layout.root / "last-run.json").write_text("{")
    assert last_run(project.layout) is None


HOOKS = """
[hooks]
on_change = 'echo "changed $LOCKSTOCK_SNAPSHOT"; echo changed >> hooks.log'
on_failure = 'echo "$LOCKSTOCK_EXIT_CODE: $LOCKSTOCK_REASON" >> hooks.log; exit 3'
"""


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_report_that_nobody_reads_is_no_failure_of_the_refresh(
    project: Project, flask: Path, arguments: tuple[str, ...]
) -> None:
    project.lock(flask)
    project.configure(more="[hooks]\non_failure = 'touch failed'\n")
    reader, writer = os.pipe()
    os.close(reader)
    options = project.options() | {"stdout": writer, "stderr": subprocess.PIPE}
    del options["capture_output"]
    ended = subprocess.run(project.command("refresh", *arguments), **options, check=False)
    os.close(writer)
    run = last_run(project.layout)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert run is not None
    assert (run.exit_code, run.changed, run.snapshot is not None) == (0, True, True)
    assert not (project.folder / "failed").exists()


def test_hooks_are_run_when_they_should(project: Project, flask: Path) -> None:
    project.configure(more=HOOKS)
    project.lock(flask)
    log = project.folder / "hooks.log"
    ended = project.mirror("refresh", "--json")
    assert json.loads(ended.stdout)["changed"] is True
    assert f"changed {json.loads(ended.stdout)['snapshot']}" in ended.stderr
    assert project.refreshed()["changed"] is False
    assert log.read_text() == "changed\n"
    project.lock(flask, changed={flask.name: "0" * 64})
    ended = project.mirror("refresh")
    assert ended.returncode == 20
    assert "hook on_failure: it ended with exit code 3" in ended.stderr
    assert log.read_text().splitlines()[1].startswith("20: ")


def test_hooks_hear_of_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    heard: list[Run] = []
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(DiskFullError), noted(Layout(tmp_path), heard.append):
        raise DiskFullError("no space is left on the disk")
    assert [run.exit_code for run in heard] == [DiskFullError.exit_code]


def test_hooks_are_told_reasons_without_what_no_variable_may_hold(project: Project, flask: Path) -> None:
    project.configure(more=HOOKS)
    project.lock(flask)
    run = Run(
        ended=0, seconds=0, exit_code=10, reason="a\0b\ud800", snapshot=None, changed=False, succeeded=None
    )
    run_hooks(project.load(), run)
    assert (project.folder / "hooks.log").read_text() == "10: a\ufffdb\ufffd\n"


def test_hooks_that_are_wrong(project: Project, flask: Path) -> None:
    project.lock(flask)
    project.configure(more="[hooks]\non_chang = 'x'\n")
    ended = project.mirror("refresh")
    assert (ended.returncode, "on_change" in ended.stderr) == (3, True)


AWKWARD = "/srv/my $HOME/50% of 'it'"
JOB = Job(
    program=f"{AWKWARD}/mirror",
    config=f"{AWKWARD}/lockstock.toml",
    folder=AWKWARD,
    user="mirror",
    image="lockstock:1",
)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = tmp_path / "bin dir 100%" / "mirror"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    job = Job(program=str(program), config="/etc/lock stock.toml", folder="/tmp", user="root", image="x")
    files = render(Scheduler.SYSTEMD, job)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in files]
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_unit_escapes_what_has_a_meaning() -> None:
    lines = render(Scheduler.SYSTEMD, JOB)["lockstock-refresh.service"].splitlines()
    assert "WorkingDirectory=/srv/my $HOME/50%% of 'it'" in lines
    assert "ExecStart=\"/srv/my $$HOME/50%% of 'it'/mirror\" refresh" in "\n".join(lines)


def test_a_crontab_line_is_the_command_it_should_be() -> None:
    line = render(Scheduler.CRON, JOB)["lockstock.cron"].splitlines()[-1]
    minute, hour, *_, command = line.split(" ", 5)
    assert (minute, hour) == ("30", "2")
    assert "%" not in command.replace("\\%", "")
    assert shlex.split(command.replace("\\%", "%")) == [
        "cd", AWKWARD, "&&", JOB.program, "refresh", "--config", JOB.config
    ]  # fmt: skip


def test_a_cronjob_is_what_kubernetes_expects() -> None:
    job = YAML(typ="safe").load(render(Scheduler.KUBERNETES, JOB)["lockstock-cronjob.yaml"])
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "lockstock:1"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_a_user_without_a_name_is_scheduled_by_number(
    project: Project, flask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.lock(flask)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123_456)
    result = CliRunner().invoke(app, ["schedule", "--systemd", "--config", str(project.config)])
    assert (result.exit_code, "User=123456\n" in result.stdout) == (0, True)


def test_nothing_can_be_smuggled_into_a_unit() -> None:
    with pytest.raises(ConfigError):
        render(Scheduler.SYSTEMD, Job(program="x", config="a\nUser=root", folder="/", user="me", image="x"))


def test_schedules_as_a_user(project: Project, flask: Path, tmp_path: Path) -> None:
    project.lock(flask)
    shown = project.mirror("schedule", "--cron")
    assert f"--config {project.config}" in shown.stdout
    ended = project.mirror("schedule", "--systemd", "--to", str(tmp_path / "units"))
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "units").iterdir())) == 3
    assert project.mirror("schedule").returncode == 2
    assert project.mirror("schedule", "--cron", "--systemd").returncode == 2
