"""Questions to the user's own pip and npm for their settings: they are asked, not imitated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from lockfiles.model import Ecosystem
from mirror.errors import UpstreamError

# The parser of `pip install`, without what the command itself imports, which takes twice as long.
_ASK_PIP = """
import json
from pip._internal.cli.cmdoptions import general_group, index_group, make_option_group
from pip._internal.cli.parser import ConfigOptionParser
parser = ConfigOptionParser(name="install", add_help_option=False)
for group in (general_group, index_group):
    parser.add_option_group(make_option_group(group, parser))
o, _ = parser.parse_args([])
keys = "index_url extra_index_urls find_links no_index cert client_cert trusted_hosts proxy timeout retries"
print(json.dumps({key: getattr(o, key) for key in keys.split()}))
"""
_WORDS = {
    Ecosystem.PYPI: (sys.executable, "-P", "-c", _ASK_PIP),
    Ecosystem.NPM: ("npm", "config", "list", "--long", "--json"),
}
_CLIENTS = {Ecosystem.PYPI: "pip", Ecosystem.NPM: "npm"}
_LONGEST_ANSWER = 60  # seconds
_begun: dict[Ecosystem, subprocess.Popen[str]] = {}


@contextmanager
def asked(ecosystems: Iterable[Ecosystem]) -> Iterator[None]:
    """Ask at once what is asked within the block: a client takes longer to start than to answer."""
    try:
        for ecosystem in ecosystems:
            with suppress(OSError):  # it is told when the answer is needed
                _begun[ecosystem] = _begin(ecosystem)
        yield
    finally:
        while _begun:
            with _begun.popitem()[1] as process:
                _end(process)


def ask(ecosystem: Ecosystem) -> subprocess.CompletedProcess[str]:
    """Let a client tell its settings. Raises FileNotFoundError and UpstreamError."""
    with _interruptible(), _begun.pop(ecosystem, None) or _begin(ecosystem) as process:
        try:
            answer, errors = process.communicate(timeout=_LONGEST_ANSWER)
        except subprocess.TimeoutExpired as error:
            client = _CLIENTS[ecosystem]
            raise UpstreamError(
                f"{client} does not tell its settings in {_LONGEST_ANSWER} s",
                hint=f"see what `{client} config list` waits for",
            ) from error
        finally:
            _end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, answer, errors)


def _begin(ecosystem: Ecosystem) -> subprocess.Popen[str]:
    """Start a client, in a group of its own: a terminal's Ctrl-C is for us, and no fault of pip's."""
    return subprocess.Popen(
        _WORDS[ecosystem],
        stdin=subprocess.DEVNULL,  # from which such a group may not read where it is the terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        process_group=0,
    )


def _end(process: subprocess.Popen[str]) -> None:
    """End a client that still runs, with all that it started: npm may be a script."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the wait, for which asyncio's handler would wait itself."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
