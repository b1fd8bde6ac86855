"""What works in the image, as its user, in a container without a network."""

from __future__ import annotations

import re

import pytest

from tests.imagegen.conftest import Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.root]


@pytest.fixture(scope="module", params=["sandbox", "direct_sandbox"])
def image(request: pytest.FixtureRequest) -> Sandbox:
    """The image of the Docker engine, then that of the direct engine."""
    made: Sandbox = request.getfixturevalue(request.param)
    return made


PROJECT = """
mkdir code && cd code && printf 'import alpha\\n' > mine.py && cat > pyproject.toml <<END
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "mine"
version = "1.0"
dependencies = ["alpha"]
[tool.setuptools]
py-modules = ["mine"]
END
"""
WORKS = {
    "the environment is first on PATH": "test $(command -v python) = /opt/lockstock/venv/bin/python && alpha",
    "a login shell keeps it": "bash -lc 'test $(command -v pip) = /opt/lockstock/venv/bin/pip'",
    "the user is not root": "test $(id -un):$(id -u) = sandbox:1000",
    "the user owns its places": 'test "$PWD" = /workspace && touch x ~/x',
    "text is UTF-8": "locale 2>&1 | grep -q LC_CTYPE=.C.UTF-8 && python -c 'print(chr(8230))'",
    "git is there": "git init -q x && git -C x status",
    "CA certificates are there": "python -c 'import ssl; assert ssl.create_default_context().get_ca_certs()'",
    "time zones are there": "test $(TZ=Asia/Kathmandu date +%z) = +0545"
    " && python -c 'import zoneinfo; zoneinfo.ZoneInfo(\"Asia/Kathmandu\")'",
    "git knows who commits": "git init -q x && cd x && git commit -q --allow-empty -m first"
    " && test $(git log --format=%an) = sandbox",
    "git trusts what belongs to somebody else": "git config --get-all safe.directory | grep -qx '[*]'",
    "an editor is there": "test $EDITOR = nano && nano --version",
    "a shell that people know": "test $BASH_VERSION && grep -q '^sandbox:.*:/bin/bash$' /etc/passwd",
    "its init reaps": "grep -qx tini /proc/1/comm && sh -c 'sleep 0.1 & exec true'; sleep 0.5; "
    "! grep -sh '^State:.*zombie' /proc/[0-9]*/status",
    "variables are as written": 'test "$GREETING" = \'a "b" $HOME \\ c\' && test -z "${EMPTY-unset}"',
    "pip install -r, hashed": "pip install -r /opt/lockstock/requirements.txt",
    "pip install -r, not hashed": "echo alpha > r.txt && pip uninstall -qy alpha && pip install -r r.txt",
    "pip install .": f"{PROJECT} pip install . && python -c 'import mine'",
    "pip install -e .": f"{PROJECT} pip install -e . && python -c 'import mine'",
    "uv pip sync": "uv pip sync /opt/lockstock/requirements.txt && alpha",
    "uv pip install": "uv pip install --reinstall 'beta-package>=2'",
    "uv pip install .": f"{PROJECT} uv pip install . && python -c 'import mine'",
    "a fresh environment": "python -m venv x && x/bin/pip install alpha && x/bin/alpha",
    "a fresh environment of uv": "uv venv x && VIRTUAL_ENV=$PWD/x uv pip install alpha && x/bin/alpha",
    "uv run in a project": f"{PROJECT} uv run python -c 'import mine'",
    "a newer pip": "python -m venv x && x/bin/pip install -U pip && x/bin/pip install alpha && x/bin/alpha",
}


@pytest.mark.parametrize("script", WORKS.values(), ids=WORKS.keys())
def test_works_without_a_network(image: Sandbox, script: str) -> None:
    code, output = image.run(f"set -e\n{script}")

    assert code == 0, output


NEW_PIP = "python -m venv x && x/bin/pip install -qU pip && "
FAILS = {
    "pip": ("pip install nosuch", "nosuch", None),
    "python -m pip": ("python -m pip install nosuch", "nosuch", None),
    "pip, another version": ("pip install alpha==9", "alpha==9", "1.0"),
    "pip, a name written otherwise": ("pip install 'Beta.Package>9'", "Beta.Package>9", "2.1"),
    "pip download": ("pip download nosuch", "nosuch", None),
    "pip, a requirements file": ("echo nosuch==1 > r.txt; pip install -r r.txt", "nosuch==1", None),
    "pip, an address": (
        "pip install https://files.example/a-1-py3-none-any.whl",
        "what lies at files.example",
        None,
    ),
    "pip of a fresh environment": ("python -m venv x; x/bin/pip install nosuch", "nosuch", None),
    "a newer pip": (f"{NEW_PIP} x/bin/pip install alpha==9", "alpha==9", "1.0"),
    "a newer pip, an address": (
        f"{NEW_PIP} x/bin/pip install https://files.example/a-1-py3-none-any.whl",
        "what lies at files.example",
        None,
    ),
    "uv pip install": ("uv pip install nosuch", "nosuch", None),
    "uv pip install, another version": ("uv pip install alpha==9", "alpha==9", "1.0"),
    "uv pip install, a range": ("uv pip install 'alpha>9'", "alpha>9", "1.0"),
    "uv pip sync": ("echo nosuch==1 > r.txt; uv pip sync r.txt", "nosuch", None),
    "uv add": (PROJECT + "uv add nosuch", "nosuch", None),
    "uv tool install": ("uv tool install nosuch", "nosuch", None),
}


@pytest.mark.parametrize(("script", "request_", "stocked"), FAILS.values(), ids=FAILS.keys())
def test_says_in_one_line_what_is_not_stocked_and_how_to_ask(
    image: Sandbox, script: str, request_: str, stocked: str | None
) -> None:
    code, output = image.run(script)

    said = [line for line in output.splitlines() if "this sandbox is offline" in line]
    versions = f" (stocked: {stocked})" if stocked else ""
    assert code != 0
    assert len(said) == 1, output
    assert re.match("(ERROR|error): ", said[0])
    assert f"offline and {request_} is not stocked{versions}; to get it, " in said[0]
    assert said[0].endswith(
        f"mirror refresh && imagegen build {image.reference.partition(':')[0].removeprefix('lockstock/')}"
    )
    assert "from versions" not in output


@pytest.mark.parametrize("command", ["pip install nosuch", "uv pip install nosuch"])
def test_fails_at_once(image: Sandbox, command: str) -> None:
    _, output = image.run(f"time -p {command}")

    assert float(re.search(r"^real ([\d.]+)$", output, re.MULTILINE)[1]) < 2  # type: ignore[index]


def test_pip_says_nothing_else(image: Sandbox) -> None:
    _, output = image.run("pip install nosuch")

    assert len(output.splitlines()) == 1, output


def test_other_failures_of_uv_stay_its_own(image: Sandbox) -> None:
    code, output = image.run("uv pip install --no-such-option x; uv --version; exit $?")

    assert code == 0
    assert "offline" not in output
    assert re.search(r"^uv \d", output, re.MULTILINE)


def test_uv_keeps_its_exit_code(image: Sandbox) -> None:
    assert image.run("uv pip install nosuch")[0] == 1
    assert image.run("uv pip --no-such-option")[0] == 2
    assert image.run("uv pip list")[0] == 0


def test_any_other_python_starts_undisturbed(image: Sandbox) -> None:
    code, output = image.run("python3 -c 'import lockstock_offline, sys; print(\"logging\" in sys.modules)'")

    assert (code, output.split()) == (0, ["False"])
