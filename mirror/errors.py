"""The ways in which stocking the mirror fails, each with an exit code of its own."""

from __future__ import annotations

from lockfiles.errors import LockstockError


class DigestMismatchError(LockstockError):
    """The bytes that came are not those that the lock names."""

    exit_code = 20


class NotFoundUpstreamError(LockstockError):
    """No upstream index has the package, the version, or a file with a locked digest."""

    exit_code = 21


class UpstreamError(LockstockError):
    """An upstream cannot be reached, refuses, or answers with an error."""

    exit_code = 22
    usual_hint = "try again later, and look at `pip config list`; what was stocked before is kept and served"


class TruncatedError(UpstreamError):
    """The upstream stopped in the middle of a file, also after retries."""

    exit_code = 23


class OversizedError(UpstreamError):
    """The upstream sends more bytes than the file has or may have."""

    exit_code = 24


class ResolutionError(LockstockError):
    """Build requirements or tools cannot be resolved to pinned artifacts."""

    exit_code = 25


class UnsafeArchiveError(LockstockError):
    """An archive has entries that would leave its folder, or holds another package than it should."""

    exit_code = 27
    usual_hint = "do not install it; ask who runs the upstream, or lock another version"


class PartialError(LockstockError):
    """Some locks could not be met; the others were refreshed."""

    exit_code = 26
    usual_hint = "the others are refreshed; each failed lock is served as it was before, if it was"


class DiskFullError(LockstockError):
    """There is no room left for what has to be written."""

    exit_code = 30


class StoreError(LockstockError):
    """The mirror's folder cannot be used, or holds something that should not be there."""

    exit_code = 31


class BusyError(LockstockError):
    """Another run holds the mirror."""

    exit_code = 32


class RegistryError(LockstockError):
    """devpi does not start, does not answer, or refuses what is published."""

    exit_code = 33


class DamageError(LockstockError):
    """Files of the mirror are not what they were when they were stocked."""

    exit_code = 34
    usual_hint = "`mirror verify --repair` fetches again what the snapshots name"


class BundleError(LockstockError):
    """A bundle is damaged, incomplete, or builds on what this mirror does not hold."""

    exit_code = 35


class UnhealthyError(LockstockError):
    """`mirror doctor` found what keeps the mirror from working."""

    exit_code = 36
    usual_hint = "each finding above says what to do"


class ObjectStoreError(LockstockError):
    """The object store cannot be reached, or refuses what is published."""

    exit_code = 71
