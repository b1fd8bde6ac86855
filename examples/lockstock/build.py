"""Makes lockstock's own container image with lockstock itself: `make image` runs it.

The wheel of this checkout is one more locked package, which lies in a folder that pip finds it in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from imagegen.engines.docker import DockerEngine

HERE = Path(__file__).parent
DIST = HERE / "dist"
NAME = "lockstock"


def main() -> None:
    """Build the wheel, lock it, stock all, build the image, and name it as `mirror schedule` does."""
    lock(wheel())
    run("mirror", "refresh")
    reference = json.loads(run("imagegen", "build", NAME, "--json"))["reference"]
    DockerEngine().tag(reference, NAME, version(NAME))
    print(f"{NAME}:{version(NAME)}")


def wheel() -> Path:
    """Build the wheel, whose bytes depend on nothing but the checkout."""
    for old in DIST.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(DIST)]
    subprocess.run([*command, str(HERE.parents[1])], check=True)
    (built,) = DIST.glob("*.whl")
    return built


def lock(wheel: Path) -> None:
    """Write the lock that names the wheel by its digest."""
    name, number, *_ = wheel.name.split("-")
    digest = sha256(wheel.read_bytes()).hexdigest()
    (DIST / "requirements.txt").write_text(f"{name}=={number} --hash=sha256:{digest}\n")


def run(*arguments: str) -> str:
    """Run one of our commands with its messages shown, and give what it prints."""
    command = [sys.executable, "-m", *arguments, "--config", str(HERE / "lockstock.toml")]
    environment = {**os.environ, "PIP_FIND_LINKS": str(DIST)}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)
    return ended.stdout


if __name__ == "__main__":
    main()
