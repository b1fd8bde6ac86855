"""Reads git repositories with the user's own git, its credential helpers and its settings."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from mirror.errors import UpstreamError
from mirror.store import Incoming, disk_errors
from mirror.upstream.settings import without_secrets

REMOTE = ("git", "http", "https", "ssh")
_LONGEST_FETCH = 900  # seconds
_LONGEST_LOOK = 120
_TEXT_LIMIT = 64 << 20
_CHUNK = 1 << 18
_URL = re.compile(r"(?P<scheme>[a-z+]+)://[^\s]+|[\w.-]+@[\w.-]+:[^\s-][^\s]*")
# The user's settings and the repository's attributes may not decide an archive's bytes.
_ARCHIVE_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
# A lock's own credentials, for its host alone; not in a URL, which git gives to its own children to read.
_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    '"$LOCKSTOCK_GIT_USER" "$LOCKSTOCK_GIT_PASSWORD"; }; f'
)
_ATTRIBUTES = "* -export-subst -export-ignore -text -ident -filter -working-tree-encoding\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """One commit of a repository, held in a bare clone."""

    folder: Path
    commit: str
    tree: str

    def read(self, path: str) -> str:
        """Give the text of a file of at most 64 MiB. Raises FileNotFoundError or UnicodeDecodeError."""
        place = f"{self.commit}:{path}"
        size = _git(self.folder, ["cat-file", "-s", place])
        if size.returncode or int(size.stdout) > _TEXT_LIMIT:
            raise FileNotFoundError(2, "no such file in the commit, or none to read", path)
        ended = _git(self.folder, ["cat-file", "blob", place])
        if ended.returncode:
            raise FileNotFoundError(2, "no such file in the commit", path)
        return ended.stdout.decode("utf-8")

    def files(self) -> tuple[str, ...]:
        """Name all files, sorted."""
        listed = _git(self.folder, ["ls-tree", "-r", "-z", "--name-only", "--full-tree", self.commit])
        return tuple(sorted(name.decode("utf-8", "replace") for name in listed.stdout.split(b"\0") if name))

    def archive(self, prefix: str, incoming: Incoming) -> None:
        """Write the files as a tar, whose bytes depend only on the commit and the prefix.

        Raises UpstreamError, and OversizedError where there are more bytes than are taken.
        """
        attributes = self.folder / "info" / "attributes"
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text(_ATTRIBUTES)
        options = ["-c", "core.autocrlf=false", "-c", "tar.umask=0022"]
        command = ["git", *options, "archive", "--format=tar", f"--prefix={prefix}/", self.commit]
        environment = {**_environment(self.folder), **_ARCHIVE_ENVIRONMENT}
        with subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                while process.stdout and (chunk := process.stdout.read(_CHUNK)):
                    incoming.write(chunk)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise UpstreamError("git cannot archive the commit", where=self.commit)


def fetch_commit(clones: Path, url: str, ref: str, schemes: Collection[str] = REMOTE) -> Checkout:
    """Fetch one commit (shallow where the server can) into a bare clone below `clones`.

    A commit that is named by its full hash and held is not fetched again. The URL must be of one of
    the `schemes` or of the form USER@HOST:PATH. Raises UpstreamError.
    """
    _check(url, ref, schemes)
    folder = clones / f"{hashlib.sha256(without_secrets(url).encode()).hexdigest()[:16]}.git"
    with disk_errors(clones), _alone(folder):
        if _is_commit(ref) and _resolve(folder, ref):
            return _checkout(folder, ref)
        was_there = folder.exists()
        failed = _fetch(folder, url, ref, schemes)
        if failed and was_there:  # what a killed run left may never work again: begin anew
            failed = _fetch_anew(folder, url, ref, schemes)
        if failed:
            raise UpstreamError(
                f"git cannot fetch {ref}: {failed.replace(url, without_secrets(url))}",
                where=without_secrets(url),
                hint="`git ls-remote` shows what is there",
            )
        return _checkout(folder, ref if _is_commit(ref) else "FETCH_HEAD")


def _check(url: str, ref: str, schemes: Collection[str]) -> None:
    """Refuse what git would take for an option, or for a program to run, or for several lines."""
    known = _URL.fullmatch(url) if _credentials_printable(url) else None
    if not known or (known["scheme"] or "ssh") not in schemes or ref.startswith("-") or not ref.isprintable():
        raise UpstreamError(
            "not a repository to fetch from",
            where=without_secrets(url),
            hint=f"it must be one of: {', '.join(sorted(schemes))}",
        )


def _credentials_printable(url: str) -> bool:
    """Say whether user and password can go into an environment and into one line of a helper's answer."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return all(unquote(part or "").isprintable() for part in (parts.username, parts.password))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs off a clone, also those that only plan."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, url: str, ref: str, schemes: Collection[str]) -> str:
    """Fetch, and give the reason why it failed, or nothing."""
    if not (folder / "HEAD").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, ["init", "--quiet", "--bare", "."])
    shown, environment = _hidden(url)
    environment["GIT_ALLOW_PROTOCOL"] = ":".join(schemes)
    options = ["fetch", "--quiet", "--no-tags", "--force"]
    reason = _tried(folder, [*options, "--depth=1", "--end-of-options", shown, ref], environment)
    if reason and _is_commit(ref):  # a server may refuse to give single commits
        reason = _tried(folder, [*options, "--end-of-options", shown, "+refs/*:refs/*"], environment)
    return reason


def _fetch_anew(folder: Path, url: str, ref: str, schemes: Collection[str]) -> str:
    """Fetch into a fresh clone, which takes the old one's place if that works: commits held stay so."""
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    failed = _fetch(fresh, url, ref, schemes)
    if not failed:
        shutil.rmtree(folder)
        fresh.rename(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    return failed


def _hidden(url: str) -> tuple[str, dict[str, str]]:
    """Give the URL without its credentials, and the environment in which git finds them."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    place, user = f"credential.{parts.scheme}://{host}", unquote(parts.username)
    if parts.password is None:
        settings = [(f"{place}.username", user)]
    else:
        settings = [(f"{place}.helper", ""), (f"{place}.helper", _HELPER)]  # the empty one clears the list
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings, first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    environment |= {"LOCKSTOCK_GIT_USER": user, "LOCKSTOCK_GIT_PASSWORD": unquote(parts.password or "")}
    return urlunsplit(parts._replace(netloc=host)), environment


def _tried(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> str:
    try:
        ended = _git(folder, arguments, environment, _LONGEST_FETCH)
    except UpstreamError as error:
        return error.reason
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return (lines[-1] if lines else "no reason given") if ended.returncode else ""


def _checkout(folder: Path, ref: str) -> Checkout:
    commit, tree = _resolve(folder, ref), _resolve(folder, f"{ref}^{{tree}}")
    if not commit or not tree:
        raise UpstreamError(f"the repository has no commit {ref}", where=str(folder), hint="lock again")
    return Checkout(folder=folder, commit=commit, tree=tree)


def _resolve(folder: Path, ref: str) -> str | None:
    if not (folder / "HEAD").exists():
        return None
    kind = "" if ref.endswith("}") else "^{commit}"
    ended = _git(folder, ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{ref}{kind}"])
    return ended.stdout.decode().strip() if ended.returncode == 0 else None


def _is_commit(ref: str) -> bool:
    return len(ref) in (40, 64) and all(c in "0123456789abcdef" for c in ref)


def _environment(folder: Path) -> dict[str, str]:
    """Never ask a person, whatever the user's settings say."""
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_DIR": str(folder.absolute())}


def _git(
    folder: Path,
    arguments: Sequence[str],
    environment: dict[str, str] | None = None,
    timeout: int = _LONGEST_LOOK,
) -> subprocess.CompletedProcess[bytes]:
    """Run git to its end. Raises UpstreamError when that does not come in `timeout` seconds."""
    with subprocess.Popen(
        ["git", *arguments],
        cwd=folder,
        env={**_environment(folder), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise UpstreamError(f"git did not end in {timeout} s", where=arguments[0]) from error
        finally:
            _end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git if it still runs, and what it started to talk to a server, which would outlive it."""
    if process.poll() is None:
        for pid in _family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """Give a process and all that it started: a group of their own would keep Ctrl-C from them."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        children = []
    return [pid, *(each for child in children for each in _family(int(child)))]
