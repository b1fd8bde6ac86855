"""The log of what people do with tokens: mint, revoke, rotate. Their use stands in the logs of gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mirror.gate.keys import GateHome
from mirror.gate.log import Log

TOKENS = "tokens"
"""The name of this log; no task may have it."""

_WAIT = 10.0


@contextmanager
def token_log(home: GateHome) -> Iterator[Callable[..., None]]:
    """Give what writes one token event; no other command changes keys or tokens meanwhile. Raises LogError.

    The log is sealed at the end, so that each event is signed.
    """
    signer = home.signer()
    log = Log(home.log(TOKENS), signer.named(f"{signer.name}/{TOKENS}"), wait=_WAIT)

    def write(action: str, task: str = "", **fields: Any) -> None:
        log.append({"event": "token", "action": action, "task": task, **fields})

    try:
        yield write
    finally:
        log.close()
