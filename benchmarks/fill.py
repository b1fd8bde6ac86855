"""A fill of about 200 packages against pip, uv and curl, which is the limit: cold, unchanged, over a line.

uv compiles the lock from benchmarks/packages.in when this starts. Every contestant fetches the same
files from the same index with empty caches. lockstock's time holds the snapshot, the static tree and
devpi as well; curl is given the URLs and checks nothing.

There are two tables of the cold fill, for they say different things. Where the index that pip is set to
is near, all but curl's time is CPU, and the first table compares what the programs themselves cost. The
second asks an index at the far end of a line (`benchmarks.line`: 25 ms, 500 Mbit/s, in clear), on this
same machine. Its pages have the locked files only, so there is less to read than on a public index.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds, venv_command
from mirror.layout import Layout
from mirror.publish.pages import file_path
from mirror.snapshot import Stocked

HERE = Path(__file__).parent
DEVPI_PORT, LINE_PORT = 3988, 3989
CONFIG = (
    f'[mirror]\ntools = []\nport = {DEVPI_PORT}\n[targets]\nglibc = "2.36"\n'
    '[locks.all]\npath = "requirements.txt"\n'
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        compile_lock(project)
        subprocess.run(refresh(project), check=True, capture_output=True)
        source = (project / ".lockstock").rename(project / "source")
        snapshot = Layout(source).snapshots.current()
        assert snapshot is not None
        print(f"{len(snapshot.artifacts)} files, {snapshot.size / 1e6:.0f} MB")
        near = contestants(project, [artifact.url for artifact in snapshot.artifacts])
        compare("cold fill", near, rounds())
        unchanged(near[:2])
        with line(Layout(source).tree / "current") as url:
            far = contestants(project, [at_line(url, artifact) for artifact in snapshot.artifacts], url)
            compare("cold fill over a line", far, rounds())


def compile_lock(project: Path) -> None:
    command = [
        venv_command("uv"),
        "pip",
        "compile",
        "-q",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
    ]
    command += ["--only-binary", ":all:", str(HERE / "packages.in"), "-o", str(project / "requirements.txt")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (project / "lockstock.toml").write_text(CONFIG)


def refresh(project: Path) -> list[str]:
    return [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(project / "lockstock.toml")]


def contestants(project: Path, urls: list[str], index: str | None = None) -> list[Contestant]:
    """Give the four commands; each begins with nothing. Without `index`, pip's own settings say which."""
    python, out, lock = venv_command("python"), project / "out", str(project / "requirements.txt")

    def forget() -> None:
        # Put aside and not deleted: ext4 is slow to use again what was deleted in the last minutes.
        aside = Path(tempfile.mkdtemp(dir=project))
        for path in (project / name for name in (".lockstock", "out", "uv-cache")):
            if path.exists():
                path.rename(aside / path.name)
        out.mkdir()
        # lockstock brings to the disk what it has stocked, and would bring what others left in memory, too.
        os.sync()

    pip = [python, "-m", "pip", "download", "-q", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    pip += ["--no-cache-dir", "-d", str(out), "-r", lock]
    uv = [venv_command("uv"), "pip", "install", "-q", "--require-hashes", "--no-deps", "--target", str(out)]
    uv += ["--python", python, "--cache-dir", str(project / "uv-cache"), "-r", lock]
    given = project / "urls"
    given.write_text("".join(f'url = "{url}"\nremote-name\n' for url in urls))
    curl = ["curl", "-sS", "-f", "-L", "--parallel", "--parallel-max", "16", "--output-dir", str(out)]
    pips = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"{index}/simple/"}
    uvs = {"UV_NO_CONFIG": "1", "UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": f"{index}/simple/"}
    return [
        Contestant("mirror refresh", refresh(project), forget, pips if index else {}),
        Contestant("pip download", pip, forget, pips if index else {}),
        Contestant("uv pip install --target", uv, forget, uvs if index else {}),
        Contestant("curl --parallel", [*curl, "-K", str(given)], forget),
    ]


def unchanged(both: list[Contestant]) -> None:
    """Compare where each has all of it already: the mirror its store, pip its folder."""
    both[0].prepare()
    for contestant in both:
        contestant.prepare = lambda: None
        contestant.run()
    again = [Contestant(one.name, one.command, environment=one.environment) for one in both]
    compare("unchanged", again, rounds())


def at_line(url: str, artifact: Stocked) -> str:
    return f"{url}/{file_path(artifact)}"


@contextmanager
def line(tree: Path) -> Iterator[str]:
    """Serve a tree at the far end of a line, and give the URL."""
    command = [sys.executable, "-m", "benchmarks.line", str(tree), str(LINE_PORT)]
    with subprocess.Popen(command) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", LINE_PORT)).close()
                    break
                except ConnectionRefusedError:
                    if server.poll() is not None:
                        sys.exit("the server of the line does not start")
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{LINE_PORT}"
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
