"""The host's apt sources, cut down to what the base of one suite needs (sources.list(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

_COMPANIONS = ("", "-updates", "-security", "/updates")
_COMPONENT = "main"
_KEYRINGS = ("debian-archive-keyring", "ubuntu-archive-keyring")
_KEPT = ("Signed-By", "Trusted", "Check-Valid-Until", "Check-Date")
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One archive: its addresses, suites, components, and the options that say how it is trusted."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def stanza(self) -> str:
        """Write the source in deb822 style."""
        fields = [
            ("Types", "deb"),
            ("URIs", " ".join(self.uris)),
            ("Suites", " ".join(self.suites)),
            ("Components", " ".join(self.components)),
            *self.options,
        ]
        return "".join(f"{name}: {value}\n" for name, value in fields)


def read_host(folder: Path = Path("/etc/apt")) -> tuple[Source, ...]:
    """Read all sources that apt on this host uses; files that cannot be read are left out."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    sources: list[Source] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if file.suffix == ".sources":
            sources += parse_deb822(text)
        elif file.suffix == ".list":
            sources += parse_one_line(text)
    return tuple(sources)


def for_suite(sources: Iterable[Source], suite: str) -> tuple[Source, ...]:
    """Keep what bootstraps `suite`: the archive itself and its companions, of the distribution only.

    Gives nothing when the suite itself is not among the sources.
    """
    wanted = {suite + companion for companion in _COMPANIONS}
    kept = [cut for source in sources if (cut := _cut(source, wanted))]
    return tuple(kept) if any(suite in source.suites for source in kept) else ()


def parse_one_line(text: str) -> Iterator[Source]:
    """Read one-line style; what is not a binary archive is passed over."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match:
            pairs = [option.partition("=") for option in (match["options"] or "").split()]
            yield Source(
                uris=(match["uri"],),
                suites=(match["suite"],),
                components=tuple(match["components"].split()),
                options=_options({name.lower(): value for name, _, value in pairs}),
            )


def parse_deb822(text: str) -> Iterator[Source]:
    """Read deb822 style; what is disabled or not a binary archive is passed over."""
    for fields in _stanzas(text):
        enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                options=_options(fields),
            )


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t" and name:
            fields[name] += f"\n{line.rstrip()}"
        elif line[0] != "#" and ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()


def _options(fields: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, fields[name.lower()]) for name in _KEPT if fields.get(name.lower()))


def _cut(source: Source, wanted: set[str]) -> Source | None:
    suites = tuple(suite for suite in source.suites if suite in wanted)
    if not (suites and source.uris and _COMPONENT in source.components and _is_distribution(source)):
        return None
    return replace(source, suites=suites)


def _is_distribution(source: Source) -> bool:
    """Say whether the distribution signs it: other vendors use its suite names for their own archives.

    A key that is written into the source, or none, says nothing against it.
    """
    keyring = dict(source.options).get("Signed-By", "")
    return not keyring.startswith("/") or all(
        PurePosixPath(path).stem in _KEYRINGS for path in re.split(r"[,\s]+", keyring)
    )
