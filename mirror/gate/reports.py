"""What a log tells: what was reached, what was blocked and what would allow it, what was missing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

Record = Mapping[str, Any]
_SHOWN = 5
OTHERS = "(others)"
"""What stands for the targets of denials that were too many and too different to be written down."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Destination:
    """A host that was connected to; bytes are those of requests and tunnels that ended."""

    host: str
    port: int
    way: str
    requests: int
    sent: int
    received: int
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Served:
    """A package file that the sandbox got, or a part of it, and the locks that name it."""

    ecosystem: str
    package: str
    version: str
    sha256: str
    locks: tuple[str, ...]
    times: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Blocked:
    """Attempts that were blocked for one reason; `ask` is what a policy would need to say."""

    kind: str
    target: str
    rule: str
    reason: str
    ask: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """The whole report on one task."""

    task: str
    policies: tuple[str, ...]
    destinations: tuple[Destination, ...]
    packages: tuple[Served, ...]
    blocked: tuple[Blocked, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Missing:
    """A package that was asked for and that the mirror does not hold."""

    ecosystem: str
    package: str
    kind: str
    near: str
    times: int
    tasks: tuple[str, ...]


def of_task(records: Iterable[Record], task: str) -> list[Record]:
    """Give the records of a task."""
    return [record for record in records if record.get("task") == task]


def touched(task: str, records: Iterable[Record]) -> Touched:
    """Report all that a task reached, got and was refused."""
    mine = of_task(records, task)
    return Touched(
        task=task,
        policies=tuple(sorted({str(record["policy"]) for record in mine if record.get("policy")})),
        destinations=_destinations(mine),
        packages=_packages(mine),
        blocked=blocked(mine),
    )


def blocked(records: Iterable[Record]) -> tuple[Blocked, ...]:
    """Give what was blocked, the most frequent first."""
    counts: Counter[tuple[str, ...]] = Counter()
    for record in records:
        if record["event"] == "blocked" or record.get("verdict") == "deny":
            fields = ("kind", "rule", "reason", "ask")
            key = (_target(record), *(str(record.get(field, "")) for field in fields))
            counts[key] += record.get("times", 1)
    found = (
        Blocked(target=target, kind=kind, rule=rule, reason=reason, ask=ask, times=times)
        for (target, kind, rule, reason, ask), times in counts.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.times, one)))


def missing(records: Iterable[Record]) -> tuple[Missing, ...]:
    """Give the packages that were asked for in vain, the most frequent first."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    tasks: dict[tuple[str, str, str, str], set[str]] = {}
    for record in records:
        if record["event"] == "missing":
            name = record.get("package", OTHERS)
            key = (record.get("ecosystem", ""), name, record["kind"], record.get("near", ""))
            counts[key] += record.get("times", 1)
            tasks.setdefault(key, set()).add(record["task"])
    found = (
        Missing(
            ecosystem=key[0],
            package=key[1],
            kind=key[2],
            near=key[3],
            times=times,
            tasks=tuple(sorted(tasks[key])),
        )
        for key, times in counts.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.times, one)))


def summary(report: Touched) -> str:
    """Say in one line what was reached and what was blocked, the most frequent first."""
    hosts = ", ".join(sorted({one.host for one in report.destinations})) or "no host outside"
    files = len({one.sha256 for one in report.packages})
    kinds: Counter[tuple[str, str]] = Counter()
    for one in report.blocked:
        kinds[(one.target, one.kind)] += one.times
    shown = [f"{target or 'a request'} ({kind})" for (target, kind), _ in kinds.most_common(_SHOWN)]
    rest = [f"and {len(kinds) - len(shown)} more"] if len(kinds) > len(shown) else []
    total = kinds.total()
    attempts = (
        f"{total} attempt{'s' if total != 1 else ''}: {', '.join([*shown, *rest])}" if total else "nothing"
    )
    served = f"{files} package file{'s' if files != 1 else ''} from the mirror"
    return f"reached {hosts}; {served}; blocked {attempts}"


def to_html(report: Touched, proof: str) -> str:
    """Write the report as one page; `proof` is the signed note it stands on."""
    tables = (
        (
            "Destinations",
            ("host", "port", "way", "requests", "sent", "received", "first", "last"),
            report.destinations,
        ),
        ("Packages", ("ecosystem", "package", "version", "sha256", "locks", "times"), report.packages),
        ("Blocked", ("kind", "target", "rule", "reason", "times"), report.blocked),
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(report.task)}</title>",
        "<style>body{font:14px sans-serif;margin:2em}td,th{text-align:left;padding:.2em 1em .2em 0}",
        "td{font-family:monospace}pre{background:#eee;padding:1em}</style></head><body>",
        f"<h1>What task {escape(report.task)} touched</h1>",
        f"<p>Policies: {escape(', '.join(report.policies))}</p>",
    ]
    for title, columns, rows in tables:
        parts.append(f"<h2>{title}</h2><table><tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>")
        parts += [f"<tr>{''.join(_cell(getattr(row, column)) for column in columns)}</tr>" for row in rows]
        parts.append("</table>")
    parts.append(f"<h2>Signed checkpoint</h2><pre>{escape(proof)}</pre></body></html>\n")
    return "\n".join(parts)


def _cell(value: object) -> str:
    return f"<td>{escape(', '.join(value) if isinstance(value, tuple) else str(value))}</td>"


def _destinations(records: list[Record]) -> tuple[Destination, ...]:
    """Give who was connected to; a connection that a kill cut off has no end, and so no bytes, here."""
    rows: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        if record["event"] in ("connected", "tunnel", "request"):
            rows.setdefault((record["host"], record["port"], record["way"]), []).append(record)
    return tuple(
        sorted(
            Destination(
                host=host,
                port=port,
                way=way,
                requests=sum(one["event"] == "connected" for one in found),
                sent=sum(one.get("sent", 0) for one in found),
                received=sum(one.get("received", 0) for one in found),
                first=found[0]["time"],
                last=found[-1]["time"],
            )
            for (host, port, way), found in rows.items()
            if any(one["event"] == "connected" for one in found)
        )
    )


def _packages(records: list[Record]) -> tuple[Served, ...]:
    counts: Counter[tuple[str, str, str, str, tuple[str, ...]]] = Counter()
    for record in records:
        if record["event"] == "served" and "package" in record:
            fields = (record["ecosystem"], record["package"], record["version"], record["sha256"])
            counts[(*fields, tuple(record["locks"]))] += 1
    return tuple(
        sorted(
            Served(ecosystem=key[0], package=key[1], version=key[2], sha256=key[3], locks=key[4], times=times)
            for key, times in counts.items()
        )
    )


def _target(record: Record) -> str:
    if record.get("others"):
        return OTHERS
    if "socket" in record:
        return str(record["socket"])
    if "protocol" in record:
        return str(record.get("name") or _packet(record))
    if "host" in record:
        return f"{record['host']}:{record['port']}"
    if "route" in record:
        return f"route {record['route']} {record.get('method', '')} {record.get('path', '')}"
    return str(record.get("target") or record.get("path") or "")


def _packet(record: Record) -> str:
    """Name what was sent past the gate, of which not every protocol has ports."""
    host = record.get("host", "")
    shown = f"[{host}]" if ":" in host else host
    return f"{record['protocol']} {shown}{':' + str(record['port']) if 'port' in record else ''}".strip()
