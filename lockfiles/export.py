"""What one target installs, as requirements with hashes that pip and uv read."""

from __future__ import annotations

from collections.abc import Iterator

from lockfiles.errors import LockError
from lockfiles.filenames import name_and_version
from lockfiles.model import Artifact, GitSource, Package, PathSource, UrlSource
from lockfiles.select import Choice, Selection
from lockfiles.urls import redact, without_credentials


def export_requirements(selection: Selection) -> str:
    """Give a requirements.txt with the one file of each package, for `pip install --require-hashes`.

    What was locked to a URL is pinned like the rest where its file name says what it is: that is how the
    mirror's index has it, and the URL may be out of reach. No hash can stand for a repository or a folder,
    and pip then refuses the whole file: these are comments. Raises LockError where a version or a place
    would be read as more than that.
    """
    lines = [f"# for {selection.target}", *map(_pinned, selection.choices), *_comments(selection.sources)]
    return "".join(f"{line}\n" for line in lines)


def _pinned(choice: Choice) -> str:
    package, artifact = choice.package, choice.artifact
    version = package.version
    if isinstance(package.source, UrlSource):
        version = _told_by_name(package, artifact, package.source)
    if isinstance(package.source, UrlSource) and version is None:
        place = f"#subdirectory={package.source.subdirectory}" if package.source.subdirectory else ""
        requirement = f"{package.name} @ {_word(package, without_credentials(package.source.url) + place)}"
    else:
        requirement = f"{package.name}=={_word(package, version or '')}"
    digests = sorted(d for d in artifact.digests or package.digests if d.is_strong)
    return " \\\n    ".join([requirement, *(f"--hash={digest}" for digest in digests)])


def _told_by_name(package: Package, artifact: Artifact, source: UrlSource) -> str | None:
    """Give the version by which an index finds a file; None where it finds it by none."""
    try:
        name, version = name_and_version(artifact.filename)
    except ValueError:
        return None
    return version if name == package.name and source.subdirectory is None else None


def _comments(sources: tuple[Package, ...]) -> Iterator[str]:
    for package in sources:
        if isinstance(package.source, GitSource):
            url = _word(package, without_credentials(package.source.url))
            yield f"# {package.name} @ git+{url}@{package.source.commit}"
        elif isinstance(package.source, PathSource):
            yield f"# {package.name} from {_line(package, package.source.path)}"


def _word(package: Package, text: str) -> str:
    """Give a version or a place: what follows a space pip takes for an option, such as another hash."""
    if " " in text:
        raise _unsafe(package, text)
    return _line(package, text)


def _line(package: Package, text: str) -> str:
    if not text.isprintable():
        raise _unsafe(package, text)
    return text


def _unsafe(package: Package, text: str) -> LockError:
    return LockError(f"{package.name!r} has a version or a place that is none: {redact(text)!r}")
