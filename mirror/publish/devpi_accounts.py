"""Who may read a private mirror: accounts of devpi that own nothing, with tokens for passwords."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from mirror.errors import RegistryError
from mirror.publish import devpi_state

READER = "reads the mirror"  # devpi's title of such an account
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,62}[a-z0-9_])?")
_TAKEN = ("root", devpi_state.USER)


def root(folder: Path) -> tuple[str, str]:
    """Give name and password of the administrator of the registry in `folder`."""
    return "root", (folder / "root-password").read_text()


def add(folder: Path, name: str) -> str:
    """Make a reader, or give one a new token, and give the token, which is kept nowhere.

    The caller holds the mirror. Raises RegistryError where the name is none, or is somebody else's.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise RegistryError("this cannot be the name of a reader", where=repr(name))
    token = secrets.token_urlsafe(32)
    devpi_state.init(folder)
    with devpi_state.writing(folder) as xom, xom.keyfs.write_transaction():
        user = _reader(xom, name)
        if user is None:
            xom.model.create_user(name, token, title=READER)
        else:
            user.modify(password=token)
    return token


def remove(folder: Path, name: str) -> None:
    """Take a reader away. Raises RegistryError where there is none of this name."""
    devpi_state.init(folder)
    with devpi_state.writing(folder) as xom, xom.keyfs.write_transaction():
        user = _reader(xom, name)
        if user is None:
            raise RegistryError("there is no such reader", where=name, hint="`mirror reader list` shows them")
        user.delete()


def names(folder: Path) -> tuple[str, ...]:
    """Give the names of all readers, sorted."""
    devpi_state.init(folder)
    with devpi_state.writing(folder) as xom, xom.keyfs.read_transaction():
        users = xom.model.get_userlist()
        return tuple(sorted(user.name for user in users if user.get().get("title") == READER))


def _reader(xom: Any, name: str) -> Any:
    user = xom.model.get_user(name)
    if user is not None and user.get().get("title") != READER:
        raise RegistryError("this is the account of somebody who is more than a reader", where=name)
    return user
