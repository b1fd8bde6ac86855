"""The logical lines of a requirements file: continuations joined, comments gone, options apart.

The syntax is that of pip's "requirements file format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lockfiles.errors import LockError
from lockfiles.urls import redact

_SHORT = {"-r": "requirement", "-c": "constraint", "-i": "index-url", "-f": "find-links"}
INCLUDES = ("requirement", "constraint")
OF_A_REQUIREMENT = {"hash", "config-settings", "config-setting", "global-option"}
_OF_A_FILE = {
    "index-url", "extra-index-url", "find-links", "no-binary", "only-binary", "trusted-host", "use-feature",
}  # fmt: skip
_FLAGS = {"no-index", "prefer-binary", "require-hashes", "pre"}
_COMMENT = re.compile(r"(?:^|(?<!\s)\s+)#.*$")
_EDITABLE = re.compile(r"(?:-e|--editable)[\s=]*")
_TOKEN = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*'|["'])+""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A logical line: where it begins, its requirement if any, and its options."""

    file: str
    number: int
    text: str = ""
    editable: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """Name file and line for an error."""
        return f"{self.file}:{self.number}"

    def values(self, option: str) -> list[str]:
        """Give the values of an option."""
        return [value for name, value in self.options if name == option]


def logical_lines(filename: str, text: str) -> Iterator[Line]:
    """Give the lines of a file that say something. Raises LockError for an unknown option."""
    for number, joined in _joined(text):
        content = _COMMENT.sub("", joined).strip()
        if content:
            yield _split(Line(file=filename, number=number), content)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Join continued lines as pip does: a comment line ends a continuation."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        first = first if parts else number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            parts.append(line[:-1])
            continue
        yield first, "".join([*parts, " " if comment else "", line])
        parts = []
    if parts:
        yield first, "".join(parts)


def _split(line: Line, content: str) -> Line:
    """Split a line where its options begin, which is how pip finds them."""
    editable = _EDITABLE.match(content)
    content = content[editable.end() :] if editable else content
    begin = re.search(r"(?:^|\s)-", content)
    end = begin.start() if begin else len(content)
    return replace(
        line,
        text=_unquoted(content[:end].strip()) if editable else content[:end].strip(),
        editable=editable is not None,
        options=tuple(_options(line, content[end:])),
    )


def _options(line: Line, text: str) -> Iterator[tuple[str, str]]:
    tokens = iter(_TOKEN.findall(text))
    for token in tokens:
        flag, _, value = token.partition("=")
        if not flag.startswith("--"):
            flag, value = token[:2], token[2:]
        name = _SHORT.get(flag, flag.removeprefix("--"))
        if name in _FLAGS:
            yield name, ""
            continue
        if name not in _OF_A_FILE | OF_A_REQUIREMENT and name not in INCLUDES:
            raise LockError(f"{redact(flag)!r} is not an option that pip knows here", where=line.where)
        value = _unquoted(value or next(tokens, ""))
        if not value:
            raise LockError(f"{flag} needs a value", where=line.where)
        yield name, value


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
