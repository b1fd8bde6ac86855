"""Importing large packages whose bytecode names a time, a hash that is never compared, or one that is.

The packages are those of the environment that runs this, copied once for each way. See docs/design.md.
"""

from __future__ import annotations

import compileall
import shutil
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from py_compile import PycInvalidationMode

from benchmarks.paired import Contestant, compare, rounds

PACKAGES = ("aiohttp", "cryptography", "docker", "httpx", "hypothesis", "jinja2", "packaging", "rich", "yaml")
WAYS = {
    "time": PycInvalidationMode.TIMESTAMP,
    "unchecked hash": PycInvalidationMode.UNCHECKED_HASH,
    "checked hash": PycInvalidationMode.CHECKED_HASH,
}


def main() -> None:
    names = [name for name in PACKAGES if find_spec(name)]
    site = sysconfig.get_path("purelib")
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(names)}"
    with tempfile.TemporaryDirectory() as folder:
        contestants = []
        for name, mode in WAYS.items():
            copy = str(Path(folder, name))
            shutil.copytree(
                site, copy, ignore=shutil.ignore_patterns("__pycache__", "*mypy*", "ruff*", "uv*")
            )
            compileall.compile_dir(copy, quiet=2, workers=0, invalidation_mode=mode)
            contestants.append(Contestant(name, [sys.executable, "-I", "-S", "-c", code, copy]))
        compare(f"import {len(names)} packages", contestants, rounds(12))


if __name__ == "__main__":
    main()
