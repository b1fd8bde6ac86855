"""What may go wrong, in words for the person who has to mend it.

Every error that reaches a user is a `LockstockError`: a reason, the place, a hint, and an exit
code of its own kind. They become text and exit codes in one place only, `mirror.console.run`.
"""

from __future__ import annotations

from typing import ClassVar


class LockstockError(Exception):
    """Base of all errors that are shown to a user.

    `reason` says what went wrong in one sentence, `where` names the file, package or line, and
    `hint` what to do about it. `exit_code` belongs to the kind and is listed in docs/reference.md.
    """

    exit_code: ClassVar[int] = 1
    usual_hint: ClassVar[str] = ""

    def __init__(self, reason: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


class ConfigError(LockstockError):
    """lockstock.toml is missing, unreadable, or says something that has no meaning."""

    exit_code = 3
    usual_hint = "docs/reference.md lists every key of lockstock.toml with its type and default"


class LockError(LockstockError):
    """A lock-file cannot be read or does not say what it must."""

    exit_code = 10
    usual_hint = "write the lock-file again with the tool that made it"


class MissingHashError(LockError):
    """A locked package has no digest that is strong enough to accept bytes by."""

    exit_code = 11


class NoMatchingArtifactError(LockstockError):
    """No file of a locked package fits a target."""

    exit_code = 12
