"""`mirror refresh` of the example's lock against `pip download`, cold and unchanged.

lockstock's time holds more: every byte is hashed into a store, a snapshot is written, and devpi
is filled, started and asked. pip's own cache is off: the question is what the network costs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.paired import Contestant, compare, rounds

LOCK = Path(__file__).parent.parent / "examples" / "service" / "requirements.txt"
CONFIG = """\
[mirror]
tools = []
port = 3987
[targets]
glibc = "2.36"
[locks.service]
path = "requirements.txt"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project, downloads = Path(folder, "project"), Path(folder, "downloads")
        project.mkdir()
        shutil.copy(LOCK, project)
        (project / "lockstock.toml").write_text(CONFIG)

        def forget() -> None:
            shutil.rmtree(project / ".lockstock", ignore_errors=True)
            shutil.rmtree(downloads, ignore_errors=True)

        refresh = [sys.executable, "-m", "mirror", "refresh", "--json", "-c", str(project / "lockstock.toml")]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        download += ["--only-binary=:all:", "--no-cache-dir", "-d", str(downloads), "-r", str(LOCK)]
        cold = [Contestant("mirror refresh", refresh, forget), Contestant("pip download", download, forget)]
        compare("cold", cold, rounds())
        for contestant in reversed(cold):  # the preparation of either forgets what both hold
            contestant.prepare = lambda: None
            contestant.run()
        compare(
            "unchanged",
            [Contestant("mirror refresh", refresh), Contestant("pip download", download)],
            rounds(),
        )


if __name__ == "__main__":
    main()
