"""The direction of imports: lockfiles ← mirror ← imagegen, and a core that touches no world."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "lockfiles": {
        "mirror", "imagegen", "asyncio", "ctypes", "http", "httpx", "multiprocessing", "os", "pathlib",
        "requests", "select", "shutil", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
        "urllib.request",
    },
    "mirror": {"imagegen"},
}  # fmt: skip
SOURCES = [(package, file) for package in FORBIDDEN for file in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in a file, with all its parents."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that their direction can be read"
            names.update({node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)})
    return {".".join(name.split(".")[: depth + 1]) for name in names for depth in range(name.count(".") + 1)}


@pytest.mark.parametrize(("package", "file"), SOURCES, ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(package: str, file: Path) -> None:
    assert not imported(ast.parse(file.read_text())) & FORBIDDEN[package]


@pytest.mark.parametrize("file", [file for package, file in SOURCES if package == "lockfiles"], ids=str)
def test_lockfiles_opens_no_files_and_runs_no_code(file: Path) -> None:
    called = {node.func.id for node in ast.walk(ast.parse(file.read_text()))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert not called & {"open", "eval", "exec", "__import__", "input", "print"}


def test_the_check_sees_imports() -> None:
    assert {"mirror", "mirror.store", "os"} <= imported(
        ast.parse("def f():\n import os\n from mirror import store")
    )
