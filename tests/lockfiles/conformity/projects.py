"""Three projects as each tool wants them written: plain, with forks, and with other sources."""

from __future__ import annotations

import json
from pathlib import Path

from packaging.requirements import Requirement

PLAIN = [
    "httpx", "pydantic", "pyyaml", "rich", "markupsafe", "colorama; sys_platform == 'win32'",
    "tomli; python_version < '3.12'", "uvloop; platform_machine != 'ppc64le'",
]  # fmt: skip
FORKS = [
    "httpx[http2]", "numpy<2.4; python_version < '3.13'", "numpy>=2.4; python_version >= '3.13'",
    "tomli; python_full_version < '3.11.4'",
]  # fmt: skip
EXTRAS = {"cli": ["rich", "typer; python_version >= '3.12'"], "all": ["forks[cli]", "markupsafe"]}
PLAIN_EXTRAS = EXTRAS | {"all": [*EXTRAS["cli"], "markupsafe"]}
"""Without an extra of the project's own, which poetry refuses."""
CONFLICTING_EXTRAS = {"old": ["pydantic<2"], "new": ["pydantic>=2"]}
GROUPS: dict[str, list[object]] = {
    "dev": ["pytest", {"include-group": "lint"}],
    "lint": ["ruff", "black[colorama]"],
    "docs": ["mistune<4"],
}
CONFLICTING_GROUPS: dict[str, list[object]] = {"docs-old": ["mistune<3"]}
UV_CONFLICTS = """
[tool.uv]
conflicts = [
  [{ extra = "old" }, { extra = "new" }],
  [{ group = "docs" }, { group = "docs-old" }],
  [{ group = "docs-old" }, { extra = "all" }],
]
"""


def sources(git_url: str, commit: str) -> list[str]:
    """Give the dependencies of a project with an sdist and a git repository."""
    return ["docopt", "markupsafe", f"demo-git @ git+{git_url}@{commit}"]


def write_pyproject(
    folder: Path,
    dependencies: list[str],
    extras: dict[str, list[str]] | None = None,
    groups: dict[str, list[object]] | None = None,
    tool: str = "",
) -> None:
    """Write a pyproject.toml of a project that is not itself installed."""
    lines = [
        "[project]", 'name = "forks"', 'version = "0.1.0"', 'requires-python = ">=3.11,<3.16"',
        f"dependencies = {_array(dependencies)}", "[project.optional-dependencies]",
        *(f"{name} = {_array(items)}" for name, items in (extras or {}).items()), "[dependency-groups]",
        *(f"{name} = {_array(items)}" for name, items in (groups or {}).items()),
    ]  # fmt: skip
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n" + tool)


def poetry_source(index: str) -> str:
    """Name the index to poetry, which else asks for more than every index has."""
    return f"""
[tool.poetry]
package-mode = false
[tool.poetry.group.docs]
optional = true
[[tool.poetry.source]]
name = "index"
url = "{index.rstrip("/")}/"
priority = "primary"
"""


def write_pipfile(folder: Path, index: str, categories: dict[str, list[str]]) -> None:
    """Write a Pipfile."""
    lines = [f'[[source]]\nurl = "{index}"\nverify_ssl = true\nname = "index"']
    for category, dependencies in categories.items():
        lines += [f"[{category}]", *map(_pipfile_entry, map(Requirement, dependencies))]
    (folder / "Pipfile").write_text("\n".join(lines) + "\n")


def _pipfile_entry(requirement: Requirement) -> str:
    if requirement.url:
        url, _, commit = requirement.url.removeprefix("git+").rpartition("@")
        return f'{requirement.name} = {{git = "{url}", ref = "{commit}"}}'
    extras = f", extras = {json.dumps(sorted(requirement.extras))}" if requirement.extras else ""
    marker = f", markers = {json.dumps(str(requirement.marker))}" if requirement.marker else ""
    return f'{requirement.name} = {{version = "{requirement.specifier or "*"}"{extras}{marker}}}'


def _array(items: list[str] | list[object]) -> str:
    tables = (
        f'{{include-group = "{i["include-group"]}"}}' if isinstance(i, dict) else json.dumps(i) for i in items
    )
    return f"[{', '.join(tables)}]"


OLD_POETRY = """
[tool.poetry]
name = "forks"
version = "0.1.0"
description = ""
authors = ["A <a@mail.example>"]
[tool.poetry.dependencies]
python = ">=3.11,<4"
httpx = {version = ">=0.27", extras = ["http2"]}
numpy = [{version = "<2.4", python = "<3.13"}, {version = "^2.4", python = ">=3.13"}]
colorama = {version = "*", platform = "win32"}
rich = {version = "*", optional = true}
typer = {version = "*", optional = true, markers = "python_version >= '3.12'"}
[tool.poetry.extras]
cli = ["rich", "typer"]
all = ["rich", "typer"]
[tool.poetry.group.dev.dependencies]
pytest = "^9"
[tool.poetry.group.lint.dependencies]
black = {version = "*", extras = ["colorama"]}
[tool.poetry.group.docs]
optional = true
[tool.poetry.group.docs.dependencies]
mistune = "<4"
[[tool.poetry.source]]
name = "index"
url = "INDEX"
priority = "primary"
"""
