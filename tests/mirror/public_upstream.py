"""`python -m tests.mirror.public_upstream PROJECT WHEELS`: an index with a public address.

Its files are redirected to another server of this machine, by each of its names. Says how each refresh
ended, and what that other server was asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.index_server import Answer, IndexServer
from tests.project import Project

HOSTS = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]")


def main() -> None:
    project, wheels = Project(Path(sys.argv[1]), 0), Path(sys.argv[2])
    runs = []
    with IndexServer(wheels, host="93.184.216.34") as public, IndexServer(wheels) as private:
        project.upstream(public.index)
        for host in HOSTS:
            place = f"http://{host}:{private.url.rpartition(':')[2]}"

            def redirect(answer: Answer, place: str = place) -> None:
                answer.send(302, headers={"Location": place + answer.path})

            public.faults = {f"/files/{file.name}": redirect for file in wheels.iterdir()}
            ended = project.mirror("refresh")
            asked = [path for path, _ in private.requests]
            runs.append({"code": ended.returncode, "stderr": ended.stderr, "asked": asked})
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
