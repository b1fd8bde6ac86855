"""The ways in which making and proving an image fails, each with an exit code of its own."""

from __future__ import annotations

from lockfiles.errors import LockstockError


class EngineUnavailableError(LockstockError):
    """No Docker engine answers."""

    exit_code = 40


class BaseError(LockstockError):
    """The base image cannot be made or had."""

    exit_code = 41


class BuildError(LockstockError):
    """The engine refused or failed to build the image."""

    exit_code = 42


class VerifyError(LockstockError):
    """The image was built, but something in it does not hold."""

    exit_code = 43


class NotStockedError(LockstockError):
    """The mirror does not hold what the image needs."""

    exit_code = 44


class UnfitBaseError(LockstockError):
    """The base has another Python, C library or architecture than the target."""

    exit_code = 45


class NotBuiltError(LockstockError):
    """The image that is asked for is not in the engine, the mirror, the folder or the registry looked at."""

    exit_code = 46


class ConflictError(LockstockError):
    """Two locks of one image want different versions or files of one package."""

    exit_code = 47


class WheelError(LockstockError):
    """A wheel is damaged, hostile, or made for something else; it is not unpacked."""

    exit_code = 48
    usual_hint = "do not install it: ask who made it, or lock another version"


class CollisionError(LockstockError):
    """Two packages of one image want different files in one place."""

    exit_code = 49
    usual_hint = "lock only one of them, or make an image for each"


class LayerBudgetError(LockstockError):
    """An image may not have as many layers as it needs."""

    exit_code = 60


class UnsupportedError(LockstockError):
    """The direct engine cannot make this image; the Docker engine can."""

    exit_code = 61
    usual_hint = "`imagegen build NAME --engine docker` can, where a Docker engine answers"


class BadReferenceError(LockstockError):
    """The name of an image in a registry is malformed."""

    exit_code = 62
    usual_hint = "write HOST/NAME or HOST/NAME:TAG, as in registry.example:5000/team/dev:latest"


class PushError(LockstockError):
    """A registry refuses an image, or cannot be reached."""

    exit_code = 63


class EvidenceError(LockstockError):
    """What is said of an image is missing, damaged, or not signed by the key that is asked for."""

    exit_code = 74


class SigningKeyError(LockstockError):
    """A key cannot be used to sign or to verify."""

    exit_code = 75
    usual_hint = (
        "`openssl genpkey -algorithm ed25519 -out key.pem` makes one, "
        "`openssl pkey -in key.pem -pubout` gives its public half"
    )


class PlaceError(LockstockError):
    """Where an image is to go cannot take it: it is for several platforms, or that is a folder."""

    exit_code = 76


class GitPackageError(LockstockError):
    """A lock of npm names a package in a git repository, which no client of npm has in a sandbox."""

    exit_code = 79
    usual_hint = (
        "depend on a version in a registry or on a tarball by its URL (https://HOST/NAME.tgz), lock again, "
        "and run `mirror refresh`"
    )
