"""Looks at a published index the way a client does."""

from __future__ import annotations

import httpx

from lockfiles.model import Ecosystem
from mirror.errors import RegistryError
from mirror.snapshot import Snapshot
from mirror.upstream.simple import JSON_TYPE


def check_index(
    url: str, snapshot: Snapshot, *, in_house: bool = False, account: tuple[str, str] | None = None
) -> None:
    """See that the index at `url` shows the snapshot's packages and no others. Raises RegistryError.

    With `in_house`, it may show packages of people, too. `account` is a user and a password.
    """
    try:
        answer = httpx.get(url, headers={"Accept": JSON_TYPE}, timeout=30, trust_env=False, auth=account)
        answer.raise_for_status()
        shown = {project["name"] for project in answer.json()["projects"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"the published index does not answer as one: {error}", where=url) from error
    wanted = {artifact.name for artifact in snapshot.of_ecosystem(Ecosystem.PYPI)}
    if shown != wanted and not (in_house and shown > wanted):
        odd = ", ".join(sorted(shown ^ wanted)[:5])
        raise RegistryError(
            f"the published index differs from the snapshot: {odd}",
            where=url,
            hint="run `mirror refresh` again",
        )
