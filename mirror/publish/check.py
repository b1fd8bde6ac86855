"""Looks at a published index the way a client does."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from lockfiles.model import Ecosystem
from mirror.errors import RegistryError
from mirror.snapshot import Snapshot
from mirror.upstream.simple import JSON_TYPE

_LIMIT = 30  # seconds


def check_index(
    url: str, snapshot: Snapshot, *, in_house: bool = False, account: tuple[str, str] | None = None
) -> None:
    """See that the index at `url`, on this machine, shows the snapshot's packages and no others.

    With `in_house`, it may show packages of people, too. `account` is a user and a password. Raises
    RegistryError.
    """
    try:
        shown = _projects(url, account)
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"the published index does not answer as one: {error}", where=url) from error
    wanted = {artifact.name for artifact in snapshot.of_ecosystem(Ecosystem.PYPI)}
    if shown != wanted and not (in_house and shown > wanted):
        odd = ", ".join(sorted(shown ^ wanted)[:5])
        raise RegistryError(
            f"the published index differs from the snapshot: {odd}",
            where=url,
            hint="run `mirror refresh` again",
        )


def _projects(url: str, account: tuple[str, str] | None) -> set[str]:
    headers = {"Accept": JSON_TYPE}
    if account:
        headers["Authorization"] = f"Basic {b64encode(':'.join(account).encode()).decode('ascii')}"
    place = urlsplit(url)
    with closing(HTTPConnection(place.netloc, timeout=_LIMIT)) as connection:
        connection.request("GET", place.path, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {answer.reason}")
        return {project["name"] for project in json.loads(answer.read())["projects"]}
