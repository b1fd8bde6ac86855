"""Task tokens: chains of HMACs over caveats (the construction of macaroons).

Whoever holds a token can add a caveat and so narrow it, without the key and without asking; nobody
can take one away. All caveats must hold; one that is not known denies.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from mirror.gate.errors import TokenError
from mirror.gate.requests import Way

PREFIX = "lockstock_"
OPERATIONS = tuple(way.value for way in Way)
_DOMAIN = b"lockstock gate token v1"
_LIMIT = 4096
_CAVEATS = 32
_CAVEAT = re.compile(r"[a-z]{1,20} = [!-~](?:[ -~]{0,300}[!-~])?")
_TASK = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,60}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token: which key it hangs on, its own nonce, its caveats, and the HMAC at the chain's end."""

    key: str
    nonce: str
    caveats: tuple[str, ...]
    signature: bytes

    def __str__(self) -> str:
        content = [self.key, self.nonce, list(self.caveats), self.signature.hex()]
        packed = json.dumps(content, separators=(",", ":")).encode()
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @property
    def identifier(self) -> str:
        """What the log calls it; says nothing about the signature."""
        return f"{self.key}/{self.nonce[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a token is presented for. `lock` and `policy` are digests, `now` seconds since 1970."""

    now: float
    operation: str
    lock: str = ""
    policy: str = ""
    revoked: frozenset[str] = frozenset()


def mint(key_id: str, key: bytes, *, task: str, expires: int, caveats: tuple[str, ...] = ()) -> Token:
    """Make a token for a task until `expires`. Raises TokenError."""
    check_task(task)
    nonce = secrets.token_hex(16)
    token = Token(key=key_id, nonce=nonce, caveats=(), signature=_first(key, key_id, nonce))
    return narrow(token, (f"task = {task}", f"expires = {expires}", *caveats))


def check_task(task: str) -> str:
    """Give the name of a task back if it may be one. Raises TokenError."""
    if not _TASK.fullmatch(task):
        raise TokenError(f"{task!r} is not a task: small letters, digits, and .-_ between them")
    return task


def narrow(token: Token, caveats: tuple[str, ...]) -> Token:
    """Add caveats; needs no key. Raises TokenError."""
    signature = token.signature
    for caveat in caveats:
        _check(caveat)
        signature = _link(signature, caveat)
    whole = (*token.caveats, *caveats)
    if len(whole) > _CAVEATS:
        raise TokenError(f"a token has at most {_CAVEATS} caveats")
    return Token(key=token.key, nonce=token.nonce, caveats=whole, signature=signature)


def caveat(name: str, value: str) -> str:
    """Write one caveat that is known here. Raises TokenError."""
    if name not in _HOLDS and name != "task":
        raise TokenError(f"{name!r} is no caveat", hint=f"known: task, {', '.join(sorted(_HOLDS))}")
    valid: Mapping[str, Callable[[str], object]] = {
        "expires": str.isdigit,
        "lock": _DIGEST.fullmatch,
        "policy": _DIGEST.fullmatch,
        "task": _TASK.fullmatch,
        "operations": lambda text: set(text.split(",")) <= {*OPERATIONS},
    }
    if not valid[name](value):
        raise TokenError(f"{value!r} is no value of the caveat {name!r}")
    return f"{name} = {value}"


def parse(text: str) -> Token:
    """Read a token, trusting nothing of it. Raises TokenError."""
    if not text.startswith(PREFIX) or len(text) > _LIMIT:
        raise TokenError("this is no token of the gate")
    packed = text.removeprefix(PREFIX)
    try:
        decoded = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        key, nonce, caveats, signature = json.loads(decoded)
        token = Token(key=key, nonce=nonce, caveats=tuple(caveats), signature=bytes.fromhex(signature))
        plain = all(isinstance(part, str) and part.isascii() for part in (key, nonce, *caveats))
        if str(token) != text or not plain:
            raise ValueError("written in another way")
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise TokenError("this is no whole token") from error
    for one in token.caveats:
        _check(one)
    return token


def verify(token: Token, keys: Mapping[str, bytes], context: Context) -> str:
    """Check a token for what it is presented for, and give its task. Raises TokenError."""
    key = keys.get(token.key)
    expected = _first(key or b"", token.key, token.nonce)
    for one in token.caveats:
        expected = _link(expected, one)
    if key is None or not hmac.compare_digest(expected, token.signature):
        raise TokenError("the token was not made by this gate, or its key is retired")
    tasks = {value for name, value in _pairs(token) if name == "task"}
    if len(tasks) != 1 or not any(name == "expires" for name, _ in _pairs(token)):
        raise TokenError("a token is for exactly one task, and expires")
    task = tasks.pop()
    for name, value in _pairs(token):
        _require(name, value, context)
    if task in context.revoked:
        raise TokenError(f"the tokens of task {task} are revoked")
    return task


def pick(header: str) -> str | None:
    """Give the token that an Authorization or Proxy-Authorization header carries, or None.

    Bearer carries it as it is; Basic, which netrc and URLs become, as password or as user.
    """
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return None
    return password if password.startswith(PREFIX) else user


def _require(name: str, value: str, context: Context) -> None:
    if name == "task":
        return
    holds = _HOLDS.get(name)
    if holds is None:
        raise TokenError(f"the caveat {name!r} is not known here, so it does not hold")
    if not holds(value, context):
        raise TokenError(_FAILS[name])


def _expires(value: str, context: Context) -> bool:
    return value.isascii() and value.isdigit() and context.now < int(value)


_HOLDS: Mapping[str, Callable[[str, Context], bool]] = {
    "expires": _expires,
    "lock": lambda value, context: bool(context.lock) and value == context.lock,
    "policy": lambda value, context: bool(context.policy) and value == context.policy,
    "operations": lambda value, context: context.operation in value.split(","),
}
_FAILS = {
    "expires": "the token is expired",
    "lock": "the token is for another lock",
    "policy": "the token is for another policy",
    "operations": "the token is not for this operation",
}


def _pairs(token: Token) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (one.partition(" = ") for one in token.caveats)]


def _check(text: str) -> None:
    if not _CAVEAT.fullmatch(text):
        raise TokenError("a caveat is written NAME = VALUE, in printable ASCII")


def _first(key: bytes, key_id: str, nonce: str) -> bytes:
    """Begin the chain; the key is bound to this use of it, as macaroons do."""
    root = hmac.digest(_DOMAIN, key, sha256)
    return hmac.digest(root, f"{key_id} {nonce}".encode(), sha256)


def _link(signature: bytes, caveat: str) -> bytes:
    return hmac.digest(signature, caveat.encode(), sha256)
