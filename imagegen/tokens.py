"""Tokens of the service that a registry names, by the distribution project's token specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from imagegen.answers import token_of
from imagegen.credentials import Credentials
from imagegen.errors import PushError
from imagegen.reference import Reference


def ask_token(
    send: Callable[..., httpx.Response],
    challenge: Mapping[str, str],
    reference: Reference,
    actions: str,
    credentials: Credentials | None,
) -> str:
    """Give a token for these actions in a repository; `send` takes method, URL and options of httpx.

    An identity token is a refresh token of OAuth 2, which is posted. Raises PushError.
    """
    realm = challenge.get("realm", "")
    if not realm.startswith("https://") and not reference.is_loopback:
        raise PushError("its token service has no TLS", where=str(reference))
    wanted = {key: value for key, value in challenge.items() if key != "realm"}
    wanted["scope"] = f"repository:{reference.repository}:{actions}"
    try:
        if credentials and credentials.is_identity:
            form = {
                "grant_type": "refresh_token",
                "client_id": "lockstock",
                "refresh_token": credentials.secret,
            }
            answer = send("POST", realm, data={**wanted, **form})
        else:
            answer = send("GET", realm, params=wanted, auth=credentials.basic if credentials else None)
    except httpx.InvalidURL as error:
        raise PushError(f"its token service has no address: {error}", where=str(reference)) from error
    if answer.status_code != 200:
        raise PushError(
            f"its token service answers {answer.status_code}",
            where=str(reference),
            hint=f"run `docker login {reference.registry}`",
        )
    try:
        return token_of(answer.json())
    except (ValueError, RecursionError) as error:
        raise PushError("its token service gives no token", where=str(reference)) from error
