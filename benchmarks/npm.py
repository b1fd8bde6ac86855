"""npm: a lock of about 600 packages stocked and served, against `npm ci`, nginx and Verdaccio.

The lock is made at run time from the ranges below. npm runs no scripts, has no cache the first time
and the whole of it the second. lockstock's time holds more: tarballs are looked into, a snapshot and
a registry are written, devpi is started and asked. Hermeto fetches 5 files at a time and begins anew
with each run: that is `mirror refresh` with `concurrency = 5`, cold. nginx takes part
where it is installed; Verdaccio is installed by npm and takes the packages from `mirror serve`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds
from benchmarks.serve import NGINX_PORT, SERVE_PORT, nginx_command, rate, running
from mirror.console import print_table, say
from mirror.layout import Layout

EXAMPLE = Path(__file__).parent.parent / "examples" / "web"
PACKAGES = {
    "axios": "1", "eslint": "8", "express": "4", "jest": "29", "lodash": "4", "mocha": "10", "prettier": "3",
    "react": "18", "react-dom": "18", "typescript": "5", "vite": "5", "vitest": "2", "webpack": "5",
    "webpack-cli": "5",
}  # fmt: skip
CONFIG = f"""\
[mirror]
path = "{{path}}"
tools = []
port = {SERVE_PORT}
concurrency = {{concurrency}}
[targets]
glibc = "2.36"
[locks.big]
path = "package-lock.json"
"""
VERDACCIO_PORT = 3985
VERDACCIO = f"""\
storage: {{folder}}/storage
uplinks:
  mirror:
    url: http://127.0.0.1:{SERVE_PORT}/npm/
    maxage: 24h
    timeout: 60s
packages:
  "@*/*": {{{{access: $all, proxy: mirror}}}}
  "**": {{{{access: $all, proxy: mirror}}}}
log: {{{{type: stdout, level: error}}}}
"""
# Its own dependency names a tag that not every registry has.
VERDACCIO_PACKAGE = {
    "private": True,
    "dependencies": {"verdaccio": "6"},
    "overrides": {"node-fetch": "^2.7.0"},
}
ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"
QUIET = ("--ignore-scripts", "--no-audit", "--no-fund")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        names = lock(project)
        fill(project)
        serve(project, names)


def lock(project: Path) -> list[str]:
    """Lock the packages, and give the names of all that the lock holds."""
    overrides = json.loads((EXAMPLE / "package.json").read_text())["overrides"]
    manifest = {"name": "big", "private": True, "dependencies": PACKAGES, "overrides": overrides}
    (project / "package.json").write_text(json.dumps(manifest))
    subprocess.run(
        ["npm", "install", "--package-lock-only", *QUIET], cwd=project, check=True, capture_output=True
    )
    for path, concurrency in ((".lockstock", 16), (".five", 5)):
        text = CONFIG.format(path=path, concurrency=concurrency)
        (project / f"lockstock{path}.toml").write_text(text)
    places = json.loads((project / "package-lock.json").read_text())["packages"]
    names = sorted({place.rpartition("node_modules/")[2] for place in places if place})
    say(f"{len(places) - 1} places in the lock, {len(names)} names")
    return names


def fill(project: Path) -> None:
    """Stock the lock from nothing, and again when nothing has changed."""
    cache = project / "npm-cache"

    def forget() -> None:
        for folder in (project / ".lockstock", project / ".five", cache, project / "node_modules"):
            shutil.rmtree(folder, ignore_errors=True)

    def uninstall() -> None:
        shutil.rmtree(project / "node_modules", ignore_errors=True)

    install = ["npm", "ci", *QUIET, "--prefix", str(project), "--cache", str(cache)]
    cold = [
        Contestant("mirror refresh", refresh(project, ".lockstock"), forget),
        Contestant("npm ci", install, forget),
        Contestant("mirror refresh, 5 at a time", refresh(project, ".five"), forget),
    ]
    compare("cold", cold, rounds())
    for contestant in cold[:2]:  # the preparation of each forgets what the others hold
        contestant.prepare = lambda: None
        contestant.run()
    again = [
        Contestant("mirror refresh", refresh(project, ".lockstock")),
        Contestant("npm ci", install, uninstall),
    ]
    compare("unchanged", again, rounds())


def refresh(project: Path, path: str) -> list[str]:
    config = project / f"lockstock{path}.toml"
    return [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(config)]


def serve(project: Path, names: Sequence[str]) -> None:
    """Ask each server for the packuments of all packages in turn, and for as long as it takes."""
    config = str(project / "lockstock.lockstock.toml")
    held = Layout(project / ".lockstock").tree / "current" / "npm"
    paths = [f"/{name}" for name in names if (held / name).is_dir()]
    with ExitStack() as servers:
        servers.enter_context(running([sys.executable, "-m", "mirror", "serve", "-c", config], SERVE_PORT))
        contestants = [("mirror serve", SERVE_PORT, "/npm")]
        if shutil.which("nginx"):
            servers.enter_context(running(nginx_command(project), NGINX_PORT))
            contestants.append(("nginx", NGINX_PORT, "/npm"))
        if servers.enter_context(verdaccio(project / "verdaccio")):
            contestants.append(("Verdaccio", VERDACCIO_PORT, ""))
        rates = {}
        for name, port, top in contestants:
            asked = [f"{top}{path}" for path in paths]
            rate(port, asked, ABBREVIATED, at_least=len(asked))  # whatever it keeps, it has now
            rates[name] = rate(port, asked, ABBREVIATED)
    rows = [(name, f"{value:.0f}", f"{rates['mirror serve'] / value:.2f}") for name, value in rates.items()]
    print_table("packuments", ("", "a second", "mirror serve is faster by"), rows)


@contextmanager
def verdaccio(folder: Path) -> Iterator[bool]:
    """Run Verdaccio, and say whether it could be installed."""
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps(VERDACCIO_PACKAGE))
    ended = subprocess.run(
        ["npm", "install", *QUIET], cwd=folder, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        say(f"Verdaccio cannot be installed:\n{ended.stderr[-1000:]}")
        yield False
        return
    (folder / "config.yaml").write_text(VERDACCIO.format(folder=folder))
    program = str(folder / "node_modules" / ".bin" / "verdaccio")
    listen = f"127.0.0.1:{VERDACCIO_PORT}"
    with running([program, "--config", str(folder / "config.yaml"), "--listen", listen], VERDACCIO_PORT):
        yield True


if __name__ == "__main__":
    main()
