"""Reads git repositories with the user's own git, its credential helpers and its settings."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror.errors import UpstreamError
from mirror.store import disk_errors
from mirror.upstream.settings import redact

# Never ask a person; never run a helper program that a URL names.
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """One commit of a repository, held in a bare clone."""

    folder: Path
    commit: str
    tree: str

    def read(self, path: str) -> str:
        """Give the text of a file. Raises FileNotFoundError or UnicodeDecodeError."""
        ended = _git(self.folder, ["cat-file", "blob", f"{self.commit}:{path}"])
        if ended.returncode:
            raise FileNotFoundError(2, "no such file in the commit", path)
        return ended.stdout.decode("utf-8")

    def files(self) -> tuple[str, ...]:
        """Name all files, sorted."""
        listed = _git(self.folder, ["ls-tree", "-r", "-z", "--name-only", "--full-tree", self.commit])
        return tuple(sorted(name.decode("utf-8", "replace") for name in listed.stdout.split(b"\0") if name))

    def archive(self, prefix: str) -> bytes:
        """Give the files as a tar, whose bytes depend only on the commit and the prefix."""
        made = _git(
            self.folder,
            ["-c", "tar.umask=0022", "archive", "--format=tar", f"--prefix={prefix}/", self.commit],
        )
        if made.returncode:
            raise UpstreamError("git cannot archive the commit", where=self.commit)
        return made.stdout


def fetch_commit(clones: Path, url: str, ref: str) -> Checkout:
    """Fetch one commit (shallow where the server can) into a bare clone below `clones`.

    A commit that is named by its full hash and held is not fetched again. Raises UpstreamError.
    """
    folder = clones / f"{hashlib.sha256(redact(url).encode()).hexdigest()[:16]}.git"
    with disk_errors(clones):
        if not (folder / "HEAD").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _git(folder, ["init", "--quiet", "--bare", "."])
    if _is_commit(ref) and _resolve(folder, ref):
        return _checkout(folder, ref)
    failed = _fetch(folder, ["--depth=1", url, ref])
    if failed and _is_commit(ref):  # a server may refuse to give single commits
        failed = _fetch(folder, [url, "+refs/*:refs/*"])
    if failed:
        reason = failed.replace(url, redact(url))
        raise UpstreamError(
            f"git cannot fetch {ref}: {reason}", where=redact(url), hint="`git ls-remote` shows what is there"
        )
    return _checkout(folder, ref if _is_commit(ref) else "FETCH_HEAD")


def _fetch(folder: Path, arguments: Sequence[str]) -> str:
    """Fetch, and give the reason why it failed, or nothing."""
    ended = _git(folder, ["fetch", "--quiet", "--no-tags", "--force", *arguments])
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return (lines[-1] if lines else "no reason given") if ended.returncode else ""


def _checkout(folder: Path, ref: str) -> Checkout:
    commit, tree = _resolve(folder, ref), _resolve(folder, f"{ref}^{{tree}}")
    if not commit or not tree:
        raise UpstreamError(f"the repository has no commit {ref}", where=str(folder), hint="lock again")
    return Checkout(folder=folder, commit=commit, tree=tree)


def _resolve(folder: Path, ref: str) -> str | None:
    kind = "" if ref.endswith("}") else "^{commit}"
    ended = _git(folder, ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{ref}{kind}"])
    return ended.stdout.decode().strip() if ended.returncode == 0 else None


def _is_commit(ref: str) -> bool:
    return len(ref) in (40, 64) and all(c in "0123456789abcdef" for c in ref)


def _git(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **_ENVIRONMENT, "GIT_DIR": str(folder.absolute())}
    return subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, check=False)
