"""Questions to the user's own pip and npm for their settings: they are asked, not imitated."""

from __future__ import annotations

import subprocess
import sys
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
                process.kill()


def ask(ecosystem: Ecosystem) -> subprocess.CompletedProcess[str]:
    """Let a client tell its settings. Raises FileNotFoundError and UpstreamError."""
    with _begun.pop(ecosystem, None) or _begin(ecosystem) as process:
        try:
            answer, errors = process.communicate(timeout=_LONGEST_ANSWER)
        except subprocess.TimeoutExpired as error:
            process.kill()
            client = _CLIENTS[ecosystem]
            raise UpstreamError(
                f"{client} does not tell its settings in {_LONGEST_ANSWER} s",
                hint=f"see what `{client} config list` waits for",
            ) from error
    return subprocess.CompletedProcess(process.args, process.returncode, answer, errors)


def _begin(ecosystem: Ecosystem) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _WORDS[ecosystem], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
