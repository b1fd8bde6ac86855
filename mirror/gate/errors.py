"""The ways in which the gate refuses or cannot work, each with an exit code of its own."""

from __future__ import annotations

from lockfiles.errors import LockstockError


class PolicyError(LockstockError):
    """A policy cannot be read or says something that has no meaning."""

    exit_code = 50
    usual_hint = "docs/gate.md lists every key of a policy with its type"


class DeniedError(LockstockError):
    """The policy does not allow what was asked about."""

    exit_code = 51


class TokenError(LockstockError):
    """A task token is malformed, forged, expired, revoked, or for something else."""

    exit_code = 52


class LogError(LockstockError):
    """The log cannot be written, or is not what its signed checkpoints say."""

    exit_code = 53


class GateError(LockstockError):
    """The gate cannot listen, or may not go on."""

    exit_code = 54
