"""The commands of task tokens: make, narrow, look into, take back, and change the key."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mirror import config as configuration
from mirror.console import print_json, print_table, say
from mirror.options import ConfigOption, JsonOption

token = typer.Typer(name="token", help="Tokens of tasks, for a gate on TCP.", no_args_is_help=True)

_LIFE = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

TokenArgument = Annotated[str, typer.Argument(help="A token, or - to read it from stdin.", metavar="TOKEN")]
ExpiresOption = Annotated[str, typer.Option("--expires", help="How long it is good: 30m, 8h, 2d.")]
OperationsOption = Annotated[
    str, typer.Option("--operations", help="Some of mirror,route,forward,tunnel.", metavar="LIST")
]
PolicyOption = Annotated[str, typer.Option("--policy", help="Good under this policy only.", metavar="POLICY")]


@token.command()
def mint(
    task: Annotated[str, typer.Argument(help="The task's name.", metavar="TASK")],
    expires: ExpiresOption = "8h",
    operations: OperationsOption = "",
    policy: PolicyOption = "",
    locked: Annotated[
        bool, typer.Option("--locked", help="Good for the locks that the mirror serves now, only.")
    ] = False,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Make a token for a task, write that down, and print it."""
    import time

    from mirror.gate.packages import lock_digest
    from mirror.gate.places import Upstreams
    from mirror.gate.policyfile import load_policy
    from mirror.gate.running import home_of
    from mirror.gate.tokenlog import token_log
    from mirror.gate.tokens import caveat, check_task
    from mirror.gate.tokens import mint as make
    from mirror.layout import Layout

    loaded = configuration.load(config)
    now = time.time()
    caveats = [caveat("operations", operations)] if operations else []
    if policy:
        caveats.append(caveat("policy", load_policy(policy, Upstreams(loaded)).digest))
    if locked:
        caveats.append(caveat("lock", lock_digest(Layout(loaded.root).snapshots.current())))
    ends, home = int(now) + _life(expires), home_of(loaded)
    check_task(task)
    with token_log(home) as log:
        key = home.newest_key(now)
        made = make(key.id, key.secret, task=task, expires=ends, caveats=tuple(caveats))
        log("mint", task, token=made.identifier, caveats=list(made.caveats))
    typer.echo(str(made))


@token.command()
def narrow(token_: TokenArgument, expires: ExpiresOption = "", operations: OperationsOption = "") -> None:
    """Make a token that is good for less; needs no key, no mirror and no network.

    A gate writes down the caveats of each token at its first use, and so this, too.
    """
    import time

    from mirror.gate.tokens import caveat, parse
    from mirror.gate.tokens import narrow as add

    caveats = [caveat("operations", operations)] if operations else []
    if expires:
        caveats.append(caveat("expires", str(int(time.time()) + _life(expires))))
    typer.echo(str(add(parse(_text(token_)), tuple(caveats))))


@token.command()
def inspect(token_: TokenArgument, as_json: JsonOption = False) -> None:
    """Say what a token claims; whether it was made by a gate only that gate can tell."""
    from mirror.gate.tokens import parse

    found = parse(_text(token_))
    if as_json:
        print_json({"key": found.key, "identifier": found.identifier, "caveats": list(found.caveats)})
    else:
        rows = [("key", found.key), ("identifier", found.identifier)]
        print_table("", ("", ""), [*rows, *(("caveat", one) for one in found.caveats)])


@token.command()
def revoke(
    task: Annotated[str, typer.Argument(help="The task's name.", metavar="TASK")],
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Take no token of a task any more; gates that run hold to it at once."""
    from mirror.gate.running import home_of
    from mirror.gate.tokenlog import token_log
    from mirror.gate.tokens import check_task

    home = home_of(configuration.load(config))
    check_task(task)
    home.revoke(task)  # first: a log or a key that cannot be used keeps nobody's token alive
    with token_log(home) as log:
        log("revoke", task)
    say(f"the tokens of task {task} are revoked")


@token.command()
def rotate(
    overlap: Annotated[str, typer.Option("--overlap", help="How long tokens of old keys stay good.")] = "7d",
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Make a new key for tokens; those of the old ones stay good for a while."""
    import time

    from mirror.gate.running import home_of
    from mirror.gate.tokenlog import token_log

    home, kept = home_of(configuration.load(config)), _life(overlap)
    with token_log(home) as log:
        key = home.rotate(time.time(), kept)
        log("rotate", key=key.id, overlap=kept)
    say(f"new tokens hang on key {key.id}; those of older keys are good for {overlap} more")


def _text(argument: str) -> str:
    return typer.get_text_stream("stdin").read().strip() if argument == "-" else argument


def _life(text: str) -> int:
    from mirror.gate.errors import TokenError

    match = _LIFE.fullmatch(text)
    if not match:
        raise TokenError(f"{text!r} is no length of time", hint="write 30m, 8h or 2d")
    return int(match[1]) * _SECONDS[match[2]]
