"""What the documentation says is what the code does."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
from click import Group
from rich.text import Text

import imagegen
import lockfiles
import mirror
from lockfiles.errors import LockstockError
from mirror.upstream.settings import pip_settings

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def error_classes() -> list[type[LockstockError]]:
    """Every kind of error in the three packages, by exit code."""
    found: set[type[LockstockError]] = set()
    for package in (lockfiles, mirror, imagegen):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                members = vars(importlib.import_module(module.name)).values()
                found |= {m for m in members if isinstance(m, type) and issubclass(m, LockstockError)}
    return sorted(found, key=lambda kind: (kind.exit_code, kind.__name__))


def test_each_kind_of_error_has_an_exit_code_of_its_own() -> None:
    own = [kind for kind in error_classes() if "exit_code" in vars(kind)]
    codes = [kind.exit_code for kind in own]
    assert len(codes) == len(set(codes)), [(kind.__name__, kind.exit_code) for kind in own]


def test_each_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", REFERENCE)}
    missing = {kind.exit_code for kind in error_classes()} - documented - {LockstockError.exit_code}
    assert missing == set()


def commands() -> list[str]:
    """Every command, with its group: `mirror refresh`."""
    found = []
    for name in ("mirror", "imagegen"):
        app = importlib.import_module(f"{name}.commands").app
        group = typer.main.get_command(app)
        found += _commands(name, group)
    return found


def _commands(prefix: str, command: object) -> list[str]:
    if isinstance(command, Group) or hasattr(command, "commands"):
        inner = command.commands  # type: ignore[union-attr]
        return [path for name in sorted(inner) for path in _commands(f"{prefix} {name}", inner[name])]
    return [prefix]


@pytest.mark.parametrize("command", commands())
def test_each_command_is_documented(command: str) -> None:
    docs = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    assert re.search(rf"`{re.escape(command)}\b", docs), f"no page of docs/ has `{command} …`"


@pytest.mark.parametrize("name", ["mirror", "imagegen"])
def test_help_says_all_that_is_written(name: str) -> None:
    """A name of a table, `[targets]`, is markup for rich, which leaves it out, unless it is escaped."""
    waiting = [typer.main.get_command(importlib.import_module(f"{name}.commands").app)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for text in (command.help, *(getattr(option, "help", None) for option in command.params)):
            shown = Text.from_markup(text or "").plain
            assert shown == (text or "").replace("\\[", "["), command.name


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def client_hosts() -> set[str]:
    """The hosts of the package registries that this machine's own clients are set to."""
    urls = list(pip_settings(()).indexes)
    try:
        asked = subprocess.run(
            ["npm", "config", "get", "registry"], capture_output=True, text=True, check=False
        )
        urls.append(asked.stdout.strip())
    except FileNotFoundError:
        pass
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for source in sources:
        if source.is_file():
            urls += re.findall(r"(?m)^[^#\n]*?(https?://\S+)", source.read_text())
    return {
        host for url in urls if (host := urlsplit(url).hostname) and host not in ("localhost", "127.0.0.1")
    }


def test_no_registry_is_written_down() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    hosts = client_hosts()
    assert hosts
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and not path.is_symlink():
            text = path.read_text(errors="replace")
            assert not [host for host in hosts if host in text], name


def test_the_configuration_in_the_readme_is_one() -> None:
    from lockfiles.document import parse_toml
    from lockfiles.errors import ConfigError

    block = (ROOT / "README.md").read_text().partition("> lockstock.toml\n")[2].partition("\n$ ")[0]
    tables = json.loads(json.dumps(parse_toml("README.md", block, ConfigError).value))
    assert set(tables) == {"locks", "images"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lockstock as an installed wheel, outside of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return target


def test_an_installed_wheel_works_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = (
        "import lockfiles, mirror, imagegen, templates, sys, jinja2\n"
        "for package in (lockfiles, mirror, imagegen, templates):\n"
        "    assert package.__file__.startswith(sys.argv[1]), package.__file__\n"
        "print(*jinja2.PackageLoader('templates', '').list_templates())\n"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", script, str(installed)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    wanted = {str(path.relative_to(ROOT / "templates")) for path in (ROOT / "templates").rglob("*.j2")}
    assert wanted
    assert wanted <= set(ended.stdout.split())


@pytest.mark.parametrize("name", ["mirror", "imagegen"])
def test_the_commands_of_an_installed_wheel_run(installed: Path, tmp_path: Path, name: str) -> None:
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", name, "--version"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout[:10]) == (0, "lockstock "), ended.stderr
