"""The platforms that an npm package is made for: `os`, `cpu` and `libc` of its package.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Platforms:
    """Names that Node.js has for systems, processors and C libraries, each allowed or with `!` forbidden.

    An empty list allows all.
    """

    os: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()
    libc: tuple[str, ...] = ()

    def fit(self, os: str, cpu: str, libc: str) -> bool:
        """Say whether a machine is among them, by the rules of npm's install checks."""
        return _allows(self.os, os) and _allows(self.cpu, cpu) and _allows(self.libc, libc)

    def __str__(self) -> str:
        return "/".join(",".join(names) or "any" for names in (self.os, self.cpu, self.libc))


ANYWHERE = Platforms()


def _allows(names: tuple[str, ...], name: str) -> bool:
    if f"!{name}" in names:
        return False
    allowed = [each for each in names if not each.startswith("!")]
    return not allowed or name in allowed or "any" in allowed
