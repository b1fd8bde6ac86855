"""`mirror refresh` of the example's lock of npm against `npm ci`, cold and unchanged.

npm runs no scripts, has no cache the first time and the whole of it the second. lockstock's time
holds more: tarballs are looked into, a snapshot and a registry are written, devpi is started and asked.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds

EXAMPLE = Path(__file__).parent.parent / "examples" / "web"
CONFIG = """\
[mirror]
tools = []
port = 3987
[targets]
glibc = "2.36"
[locks.web]
path = "package-lock.json"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        project = Path(name, "project")
        project.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(EXAMPLE / file, project)
        (project / "lockstock.toml").write_text(CONFIG)
        fill(project)


def fill(project: Path) -> None:
    cache = project / "npm-cache"

    def forget() -> None:
        for folder in (project / ".lockstock", cache, project / "node_modules"):
            shutil.rmtree(folder, ignore_errors=True)

    def uninstall() -> None:
        shutil.rmtree(project / "node_modules", ignore_errors=True)

    refresh = [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(project / "lockstock.toml")]
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(project)]
    install += ["--cache", str(cache)]
    contestants = [Contestant("mirror refresh", refresh, forget), Contestant("npm ci", install, forget)]
    compare("cold", contestants, rounds())
    for contestant in reversed(contestants):  # the preparation of either forgets what both hold
        contestant.prepare = lambda: None
        contestant.run()
    again = [Contestant("mirror refresh", refresh), Contestant("npm ci", install, uninstall)]
    compare("unchanged", again, rounds())


if __name__ == "__main__":
    main()
