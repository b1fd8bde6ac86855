"""A cold fill of about 200 packages against pip, uv and curl, which is the limit.

uv compiles the lock from benchmarks/packages.in when this starts. Every contestant fetches the same
files from the same index with empty caches. lockstock's time holds the snapshot and devpi as well;
curl is given the URLs and checks nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds, venv_command
from mirror.layout import Layout

HERE = Path(__file__).parent
CONFIG = (
    '[mirror]\ntools = []\nport = 3988\n[targets]\nglibc = "2.36"\n[locks.all]\npath = "requirements.txt"\n'
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project, lock = Path(folder), Path(folder, "requirements.txt")
        lock_command = [
            venv_command("uv"),
            "pip",
            "compile",
            "-q",
            "--generate-hashes",
            "--no-annotate",
            "--no-header",
        ]
        lock_command += ["--only-binary", ":all:", str(HERE / "packages.in"), "-o", str(lock)]
        subprocess.run(lock_command, check=True, stdout=subprocess.DEVNULL)
        (project / "lockstock.toml").write_text(CONFIG)
        refresh = [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(project / "lockstock.toml")]
        subprocess.run(refresh, check=True, capture_output=True)
        snapshot = Layout(project / ".lockstock").snapshots.current()
        assert snapshot is not None
        print(f"{len(snapshot.artifacts)} files, {snapshot.size / 1e6:.0f} MB")
        urls = project / "urls"
        urls.write_text("".join(f'url = "{artifact.url}"\nremote-name\n' for artifact in snapshot.artifacts))
        compare("cold fill", contestants(project, lock, urls, refresh), rounds())


def contestants(project: Path, lock: Path, urls: Path, refresh: list[str]) -> list[Contestant]:
    """Give the four commands; each begins with nothing."""
    python, out = venv_command("python"), project / "out"

    def forget() -> None:
        for name in (".lockstock", "out", "uv-cache"):
            shutil.rmtree(project / name, ignore_errors=True)
        out.mkdir()

    pip = [python, "-m", "pip", "download", "-q", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    pip += ["--no-cache-dir", "-d", str(out), "-r", str(lock)]
    uv = [venv_command("uv"), "pip", "install", "-q", "--require-hashes", "--no-deps", "--target", str(out)]
    uv += ["--python", python, "--cache-dir", str(project / "uv-cache"), "-r", str(lock)]
    curl = [
        "curl",
        "-sS",
        "-f",
        "-L",
        "--parallel",
        "--parallel-max",
        "16",
        "--output-dir",
        str(out),
        "-K",
        str(urls),
    ]
    return [
        Contestant("mirror refresh", refresh, forget),
        Contestant("pip download", pip, forget),
        Contestant("uv pip install --target", uv, forget),
        Contestant("curl --parallel", curl, forget),
    ]


if __name__ == "__main__":
    main()
