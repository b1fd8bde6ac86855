"""The commands of the gate: run it, ask its policies, and read its logs.

What each command needs is imported in its function: `mirror refresh` reads this module, too.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror import config as configuration
from mirror.console import human_size, plural, print_json, print_table, say
from mirror.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from mirror.config import Config
    from mirror.gate.audit import Verified
    from mirror.gate.policy import Policy
    from mirror.gate.reports import Touched

gate = typer.Typer(name="gate", help="The sandbox's one door.", no_args_is_help=True)
audit = typer.Typer(name="audit", help="Prove what a gate's log says.", no_args_is_help=True)
commands = typer.Typer()
commands.add_typer(gate)
commands.add_typer(audit)

PolicyOption = Annotated[
    str, typer.Option("--policy", "-p", help="A policy's file, or the name of a ready one.", metavar="POLICY")
]
TaskArgument = Annotated[str, typer.Argument(help="The task's name.", metavar="TASK")]
KeyOption = Annotated[
    str, typer.Option("--key", help="The gate's public key, as kept elsewhere.", metavar="VKEY")
]
AnchorOption = Annotated[
    Path | None, typer.Option("--anchor", help="A signed checkpoint that was kept elsewhere.", metavar="NOTE")
]


@gate.command()
def serve(
    policy: PolicyOption,
    task: Annotated[str, typer.Option("--task", help="Whose socket it is.", metavar="TASK")] = "",
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Listen on a unix socket.", metavar="PATH")
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Listen on TCP; each request needs a token.", metavar="HOST:PORT")
    ] = "",
    post: Annotated[
        str | None,
        typer.Option("--post", help="Run this with each signed checkpoint on stdin.", metavar="COMMAND"),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Run a gate until stopped; the signed note to keep elsewhere is printed at the end."""
    import asyncio

    from mirror.gate import running

    loaded = configuration.load(config)
    door = _door(task, socket, listen)

    def ready(where: str) -> None:
        say(f"the gate is open at {where}; Ctrl-C ends")

    typer.echo(asyncio.run(running.serve(loaded, _policy(policy, loaded), door, post, ready)), nl=False)


@gate.command()
def check(
    policy: Annotated[str, typer.Argument(help="A policy's file, or the name of a ready one.")],
    url: Annotated[str, typer.Argument(help="The URL to ask about; without one, \\[expect] is run.")] = "",
    method: Annotated[str, typer.Option("--method", "-X", help="The method of the request.")] = "GET",
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Say what a policy decides on a URL, and by which rule. Nothing is looked up or dialled."""
    from mirror.gate.errors import DeniedError, PolicyError
    from mirror.gate.policy import answer, unmet

    loaded = _policy(policy, configuration.load(config) if config.exists() else None)
    if not url:
        if broken := unmet(loaded):
            raise PolicyError(f"[expect] does not hold: {'; '.join(broken)}", where=policy)
        count = len(loaded.must_pass) + len(loaded.must_fail)
        say(f"policy {loaded.name}, sha256 {loaded.digest}: {plural(count, 'expectation')} hold")
        return
    _, decision = answer(loaded, method, url)
    if as_json:
        print_json({"url": url, "policy": loaded.digest, **asdict(decision)})
    else:
        print_table("", ("", ""), [(k, str(v)) for k, v in asdict(decision).items() if v])
    if not decision.allowed:
        raise DeniedError(
            decision.reason, where=policy, hint=f"it would take {decision.ask or 'another way'}"
        )


@gate.command()
def why(
    task: TaskArgument, config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False
) -> None:
    """Say what was denied to a task, and which rule would allow it."""
    from mirror.gate.reports import blocked, of_task

    found = blocked(of_task(_records(configuration.load(config), task), task))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [(str(b.times), b.kind, b.target, b.reason, b.rule, b.ask) for b in found]
    print_table("", ("times", "kind", "target", "reason", "rule", "would be allowed by"), rows)
    say(f"{plural(sum(one.times for one in found), 'blocked attempt')} of task {task}")


@gate.command()
def touched(
    task: TaskArgument,
    config: ConfigOption = configuration.DEFAULT_FILE,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as a page.", metavar="FILE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report every destination and package file a task touched, from logs that verify."""
    from mirror.gate.reports import summary, to_html
    from mirror.gate.reports import touched as report_on
    from mirror.store import output_path, write_atomically

    notes: list[str] = []
    report = report_on(task, _records(configuration.load(config), task, notes))
    if html:
        write_atomically(output_path(html), to_html(report, "\n".join(notes)).encode())
    if as_json:
        print_json({**asdict(report), "checkpoints": notes})
        return
    _print_touched(report)
    say(summary(report))


@gate.command()
def replay(
    log: Annotated[Path, typer.Argument(help="A gate's log.", metavar="LOG")],
    policy: PolicyOption,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Say which recorded requests another policy would have decided in another way."""
    from mirror.gate.replay import decide_again

    loaded = configuration.load(config)
    differences = decide_again(_verified(loaded, log), _policy(policy, loaded))
    if as_json:
        print_json([asdict(one) for one in differences])
        return
    rows = [(d.target, d.was, d.now, d.rule, d.reason, str(d.times)) for d in differences]
    print_table("", ("request", "was", "would be", "rule", "reason", "times"), rows)
    say(f"{plural(len(differences), 'difference')}")


@gate.command()
def tighten(
    logs: Annotated[list[Path], typer.Argument(help="Logs of gates.", metavar="LOGS…")],
    policy: PolicyOption,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Propose the smallest part of a policy that history needs, as TOML on stdout."""
    from mirror.gate.errors import PolicyError
    from mirror.gate.replay import decide_again, to_toml
    from mirror.gate.replay import tighten as propose

    loaded = configuration.load(config)
    before = _policy(policy, loaded)
    records = [record for log in logs for record in _verified(loaded, log)]
    proposed = propose(records, before)
    if denied := [d for d in decide_again(records, proposed.policy) if d.now == "deny" and d.was == "allow"]:
        # What the policy that is tightened denies itself cannot be kept by a part of it.
        raise PolicyError(
            f"this policy already denies what these logs allowed: {denied[0].target}",
            where=policy,
            hint="give the policy that the logs were written under",
        )
    for use in proposed.uses:
        say(f"{use.times:8}  {use.rule}{'' if use.times else '  (unused)'}")
    typer.echo(to_toml(proposed.policy), nl=False)


@commands.command()
def missing(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List packages that sandboxes asked for and the mirror does not hold, the most wanted first."""
    from mirror.gate.reports import missing as find
    from mirror.gate.running import home_of

    loaded = configuration.load(config)
    logs = sorted(home_of(loaded).logs.glob("*.jsonl"))
    found = find(record for log in logs for record in _verified(loaded, log))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [(str(m.times), m.ecosystem, m.package, m.kind, m.near, ", ".join(m.tasks)) for m in found]
    print_table("", ("times", "ecosystem", "package", "what", "close to", "tasks"), rows)
    say(f"{plural(len(found), 'package')}; look at each name, then add it to the project that locks it")


@audit.command("verify")
def verify_log(
    log: Annotated[Path, typer.Argument(help="A gate's log.", metavar="LOG")],
    anchor: AnchorOption = None,
    key: KeyOption = "",
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Prove that no record of a log was edited, deleted, inserted or moved since it was signed."""
    from mirror.gate.audit import verify
    from mirror.gate.errors import LogError

    verifier = _verifier(configuration.load(config) if not key else None, key, log)
    try:
        note = anchor.read_text(encoding="utf-8") if anchor else None
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"the anchor cannot be read: {error}", where=str(anchor)) from error
    found = verify(log, verifier, note)
    if as_json:
        print_json({**asdict(found), "key": str(verifier)})
        return
    for line in _told(found):
        say(line)
    typer.echo(found.note, nl=False)


def _print_touched(report: Touched) -> None:
    destinations = [
        (d.host, str(d.port), d.way, str(d.requests), human_size(d.sent), human_size(d.received))
        for d in report.destinations
    ]
    print_table("destinations", ("host", "port", "way", "requests", "sent", "received"), destinations)
    packages = [(p.package, p.version, p.sha256, ", ".join(p.locks), str(p.times)) for p in report.packages]
    print_table("packages", ("package", "version", "sha256", "locks", "times"), packages)
    blocked = [(str(b.times), b.kind, b.target, b.reason) for b in report.blocked]
    print_table("blocked", ("times", "kind", "target", "reason"), blocked)


def _told(found: Verified) -> list[str]:
    lines = [f"verified {plural(found.records, 'record')} and {plural(found.checkpoints, 'checkpoint')}"]
    if found.after_anchor is not None:
        lines.append(f"{plural(found.after_anchor, 'record')} after the anchor")
    if found.unsealed:
        lines.append(
            f"{plural(found.unsealed, 'record')} after the last checkpoint: not sealed, and so not proved"
        )
    if found.torn:
        lines.append(
            f"the last record was not written whole: {plural(found.torn, 'byte')} of it, not counted"
        )
    return lines


def _policy(reference: str, config: Config | None) -> Policy:
    from mirror.gate.places import Upstreams
    from mirror.gate.policyfile import load_policy

    return load_policy(reference, Upstreams(config) if config else {})


def _door(task: str, socket: Path | None, listen: str) -> Any:
    from mirror.gate.errors import GateError
    from mirror.gate.hosts import HostError, parse_endpoint
    from mirror.gate.running import Door
    from mirror.gate.tokens import check_task

    if bool(socket) == bool(listen) or (socket and not task):
        raise GateError(
            "give either --socket PATH with --task TASK, or --listen HOST:PORT",
            hint="a socket is the identity of one task; on TCP the token is",
        )
    if socket:
        return Door(task=check_task(task), socket=socket)
    try:
        endpoint = parse_endpoint(listen)
    except HostError as error:
        raise GateError(f"not a place to listen: {error}", where=listen) from error
    return Door(host=str(endpoint.host), port=endpoint.port)


def _verifier(config: Config | None, key: str, log: Path) -> Any:
    from mirror.gate.errors import LogError
    from mirror.gate.note import NoteError, Verifier
    from mirror.gate.running import home_of

    try:
        verifier = Verifier.parse(key) if config is None else home_of(config).verifier()
    except NoteError as error:
        raise LogError(f"not a public key: {error}", where="--key") from error
    return Verifier(f"{verifier.name}/{log.stem}", verifier.public)


def _verified(config: Config, log: Path, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """Give the records of a log that verifies. Raises LogError."""
    from mirror.gate.audit import verify

    records: list[dict[str, Any]] = []
    found = verify(log, _verifier(config, "", log), each=records.append)
    if found.unsealed:
        say(f"{log}: {plural(found.unsealed, 'record')} not sealed yet, and left out")
    if notes is not None:
        notes.append(found.note)
    return records[: found.records - found.unsealed]


def _records(config: Config, task: str, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """Give the records of all logs in which a task may stand. Raises LogError where there is none."""
    from mirror.gate.errors import LogError
    from mirror.gate.running import home_of

    home = home_of(config)
    logs = [log for log in (home.log(task), home.log("gate")) if log.exists()]
    if not logs:
        raise LogError(f"there is no log of task {task!r}", where=str(home.logs))
    return [record for log in logs for record in _verified(config, log, notes)]
