"""Builds the wheel of an sdist with the Python of a base; runs in a box that has no network.

Below the folder given as the argument lie `sdist` and `requirements`, each with files; the wheel goes
to `out`. Source and environment have the same names each time, for compilers write them down.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

_ENVIRONMENT = "/tmp/environment"  # noqa: S108 - inside a box that lives for this build only


def unpacked(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist and give its one folder, under a name that is always the same."""
    shutil.unpack_archive(sdist, folder / "unpacked")
    (top,) = (folder / "unpacked").iterdir()
    return top.rename(folder / "source")


def main() -> int:
    """Build, and give pip's exit code."""
    folder = Path(sys.argv[1])
    (sdist,) = (folder / "sdist").iterdir()
    source = unpacked(sdist, folder)
    venv.create(_ENVIRONMENT, with_pip=True)
    options = ["--no-index", "--find-links", str(folder / "requirements"), "--no-deps", "--no-cache-dir"]
    options += ["--no-color", "--progress-bar", "off", "--wheel-dir", str(folder / "out")]
    command = [f"{_ENVIRONMENT}/bin/python", "-m", "pip", "wheel", *options, str(source)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
