"""Imports the top-level modules of every installed distribution, each in a process of its own.

Prints a line for each failure and ends with 1 if there was any. Arguments are modules to leave
alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, distributions
from pathlib import PurePosixPath

SECONDS = 120
_SOURCE = ".py"
_IMPORT = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"


def modules(files: Iterable[str]) -> list[str]:
    """Find the importable tops among a distribution's files.

    These are modules, packages, and the first packages below a namespace.
    """
    paths = [PurePosixPath(file) for file in files]
    packages = {path.parent for path in paths if _stem(path) == "__init__" and _is_name(path.parent)}
    tops = {package for package in packages if not packages.intersection(package.parents)}
    single = {path.with_name(_stem(path)) for path in paths if len(path.parts) == 1 and _stem(path)}
    return sorted(".".join(top.parts) for top in tops | single if _is_name(top))


def _stem(path: PurePosixPath) -> str:
    """Give the module's name of a file, empty if it is none."""
    for suffix in (*EXTENSION_SUFFIXES, _SOURCE):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return ""


def _is_name(path: PurePosixPath) -> bool:
    return bool(path.parts) and all(part.isidentifier() for part in path.parts)


def attempt(names: list[str]) -> str:
    """Import modules in a fresh Python; give the last line of what it said when it failed."""
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _IMPORT, *names],
            capture_output=True, text=True, timeout=SECONDS, errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {SECONDS} s"
    if ran.returncode == 0:
        return ""
    lines = ran.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with {ran.returncode}"


def _check(distribution: Distribution, skipped: set[str]) -> tuple[str, list[str], str]:
    files = [str(file) for file in distribution.files or ()]
    names = [name for name in modules(files) if name not in skipped]
    return distribution.metadata["Name"], names, attempt(names) if names else ""


def main() -> None:
    """Import everything and report."""
    skipped = set(sys.argv[1:])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = sorted(pool.map(lambda each: _check(each, skipped), distributions()))
    failed = [(name, names, error) for name, names, error in results if error]
    for name, names, error in failed:
        print(f"{name} ({', '.join(names)}): {error}")
    imported = sum(len(names) for _, names, _ in results)
    print(f"{len(results)} distributions, {imported} modules, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
