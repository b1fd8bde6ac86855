"""The user's own pip is asked, whichever way it is configured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lockfiles.model import Ecosystem
from mirror.config import UpstreamSpec
from mirror.errors import UpstreamError
from mirror.upstream import questions
from mirror.upstream.settings import UpstreamSettings, pip_settings, without_secrets
from tests.mirror.test_children import left_over
from tests.project import Project


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)


def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "pip.conf").write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))


def ask(*specs: UpstreamSpec) -> UpstreamSettings:
    return pip_settings(specs)


def test_the_configuration_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ("index-url = https://me:pass@index.example/simple", "extra-index-url = https://more.example/s")
    configure(monkeypatch, tmp_path, "\n".join(["[global]", *lines, "timeout = 3"]))
    found = ask()
    assert found.indexes == ("https://me:pass@index.example/simple", "https://more.example/s")
    assert found.timeout == 3


def test_the_environment_goes_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, tmp_path, "[global]\nindex-url = https://index.example/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "other.example")
    assert ask().indexes == ("https://other.example/simple",)
    assert ask().trusted_hosts == ("other.example",)


def test_what_pip_itself_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, tmp_path, "")
    (index,) = ask().indexes
    assert index.startswith("https://")


def test_no_index_leaves_find_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, tmp_path, "[global]\nno-index = true\nfind-links = /srv/wheels\n")
    assert (ask().indexes, ask().find_links) == ((), ("/srv/wheels",))


def test_lockstock_toml_goes_before_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(
        monkeypatch,
        tmp_path,
        "[global]\nindex-url = https://index.example/simple\nfind-links = /srv/wheels\n",
    )
    found = ask(
        UpstreamSpec(index="https://own.example/simple"), UpstreamSpec(index="https://two.example/simple")
    )
    assert found.indexes == ("https://own.example/simple", "https://two.example/simple")
    assert found.find_links == ()


def test_a_pip_that_cannot_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(questions._WORDS, Ecosystem.PYPI, ("/bin/false",))
    with pytest.raises(UpstreamError, match="pip cannot tell"):
        ask()


def test_a_client_that_never_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_LONGEST_ANSWER", 0.2)
    monkeypatch.setitem(questions._WORDS, Ecosystem.NPM, ("sleep", "60"))
    with pytest.raises(UpstreamError, match=r"npm does not tell its settings in 0\.2 s"):
        questions.ask(Ecosystem.NPM)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@index.example/simple/", "https://index.example/simple/"),
        ("https://index.example/f?token=secret#frag", "https://index.example/f"),
        ("file:///srv/simple/", "file:///srv/simple/"),
        ("https://me:s@ec@ret@index.example/x", "https://index.example/x"),
    ],
)
def test_credentials_are_never_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_pinned_name_is_asked_for_at_its_own_index_only() -> None:
    private = UpstreamSpec(index="https://private.example/simple", packages=("acme-*",))
    found = ask(private, UpstreamSpec(index="https://own.example/simple"))
    assert found.sources("acme-core") == ("https://private.example/simple",)
    assert found.sources("flask") == ("https://own.example/simple",)
    assert set(found.named) == {"https://private.example/simple", "https://own.example/simple"}


def test_who_is_asked_ahead_answers_as_of_then_and_only_within_the_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(monkeypatch, tmp_path, "[global]\nindex-url = https://before.example/simple\n")
    with questions.asked([Ecosystem.PYPI]):
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", "https://after.example/simple")
        assert ask().indexes == ("https://before.example/simple",)
        assert ask().indexes == ("https://after.example/simple",)
    with questions.asked([Ecosystem.PYPI]):
        monkeypatch.setenv("PIP_INDEX_URL", "https://later.example/simple")
    assert ask().indexes == ("https://later.example/simple",)


def test_who_is_not_there_is_told_of_when_an_answer_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with questions.asked([Ecosystem.NPM]), pytest.raises(FileNotFoundError):
        questions.ask(Ecosystem.NPM)


@pytest.mark.parametrize("command", ["refresh", "doctor"])
def test_ctrl_c_at_a_terminal_is_no_fault_of_a_client_that_is_asked(project: Project, command: str) -> None:
    """The terminal sends it to the whole group; what an npm that is a script started is ended, too."""
    npm = project.folder / "npm"
    npm.write_text('#!/bin/sh\nif [ "$1" = wait ]; then touch asked; sleep 60; exit; fi\n"$0" wait &\nwait\n')
    npm.chmod(0o755)
    project.configure(more="[locks.web]\npath = 'package-lock.json'\n")
    project.lock()
    entry = {"version": "1.0.0", "integrity": f"sha512-{'A' * 86}=="}
    content = {"lockfileVersion": 3, "packages": {"node_modules/a": entry}}
    (project.folder / "package-lock.json").write_text(json.dumps(content))
    project.environment["PATH"] = f"{project.folder}:{os.environ['PATH']}"
    words, options = project.command(command), project.options()
    with subprocess.Popen(words, cwd=options["cwd"], env=options["env"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, start_new_session=True) as running:  # fmt: skip
        while not (project.folder / "asked").exists():
            assert running.poll() is None
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=20)
    assert (running.returncode, "interrupted; nothing half-done" in told) == (130, True), told
    assert left_over(str(npm)) == []
