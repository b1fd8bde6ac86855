"""The `mirror` command: thin functions that call the parts and print what they report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror import refresh as refreshing
from mirror.console import (
    download_progress,
    human_size,
    human_time,
    plural,
    print_json,
    print_table,
    say,
)
from mirror.errors import PartialError
from mirror.hooks import run_hooks
from mirror.layout import Layout
from mirror.options import ConfigOption, JsonOption, VersionOption
from mirror.publish.deliver import Delivery, index_url
from mirror.runs import noted

if TYPE_CHECKING:
    from mirror.plan import Plan
    from mirror.status import Status, Stock

app = typer.Typer(
    name="mirror",
    help="Stock a private package mirror with exactly what lock-files name.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def main(show_version: VersionOption = False) -> None:
    """Stock a private package mirror with exactly what lock-files name."""


@app.command()
def refresh(
    config: ConfigOption = configuration.DEFAULT_FILE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the mirror up to the lock-files: fetch, verify, publish, prune."""
    loaded = configuration.load(config)
    if dry_run:
        report = refreshing.dry_run(loaded)
        _print_report(report, loaded, as_json=as_json, dry_run=True)
        _raise_failed(report)
        return
    with noted(Layout(loaded.root), partial(run_hooks, loaded)) as outcome:
        report = _refresh(loaded)
        outcome.snapshot, outcome.changed = report.snapshot, report.changed
        unheard = _unheard(report, loaded, as_json=as_json)
        _raise_failed(report)
    if unheard:
        raise unheard


def _unheard(
    report: refreshing.Report, config: configuration.Config, *, as_json: bool
) -> OSError | SystemExit | None:
    """Print the report, and give what stdout says to it: that nobody reads it is no failure of it."""
    try:
        _print_report(report, config, as_json=as_json, dry_run=False)
        sys.stdout.flush()
    except (OSError, SystemExit) as error:  # rich ends the process when its reader has gone
        return error
    return None


def _refresh(config: configuration.Config) -> refreshing.Report:
    bar = cache(download_progress)
    with Delivery(config) as delivery, ExitStack() as shown:

        def begin(plan: Plan) -> Callable[[int], None]:
            delivery.expect(plan)
            progress = bar()
            shown.callback(progress.stop)
            progress.start()  # its thread has to begin after the delivery's process
            size = f", {human_size(plan.fetch_size)}" if plan.fetch_size else ""
            say(f"fetching {plural(len(plan.fetch), 'file')}{size}")
            return partial(progress.advance, progress.add_task("fetching", total=plan.fetch_size or None))

        return refreshing.refresh(config, begin=begin, prepare=delivery.prepare, publish=delivery.publish)


@app.command()
def snapshots(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List the snapshots, the oldest first."""
    from mirror.status import read_status

    found = read_status(Layout(configuration.load_mirror(config).root))
    if as_json:
        print_json([_summary(stock, found) for stock in found.snapshots])
        return
    print_table(
        "",
        ("", "snapshot", "locks", "files", "size", ""),
        (
            (
                "*" if stock.name == found.current else " ",
                stock.name,
                ", ".join(stock.locks),
                str(stock.files),
                human_size(stock.size),
                "pinned" if stock.name in found.pinned else "",
            )
            for stock in found.snapshots
        ),
    )


def _raise_failed(report: refreshing.Report) -> None:
    """Tell each lock that failed, and end with an exit code that says so."""
    names = ["`tools`" if lock.name == configuration.TOOLS else lock.name for lock in report.failed]
    for name, lock in zip(names, report.failed, strict=True):
        say(f"{name}: {lock.reason}" + (f"\n  {lock.hint}" if lock.hint else ""))
    if names:
        raise PartialError(f"{plural(len(names), 'lock')} could not be met: {', '.join(names)}")


def _summary(stock: Stock, status: Status) -> dict[str, object]:
    return {
        "name": stock.name,
        "current": stock.name == status.current,
        "pinned": stock.name in status.pinned,
        "locks": stock.locks,
        "artifacts": stock.files,
        "size": stock.size,
    }


def _print_report(
    report: refreshing.Report, config: configuration.Config, *, as_json: bool, dry_run: bool
) -> None:
    if as_json:
        print_json(asdict(report))
        return
    for name in report.to_fetch:
        say(f"would fetch {name}")
    rows = [
        ("locks", str(report.locks)),
        ("packages", str(report.packages)),
        ("files", f"{report.artifacts}, {human_size(report.size)}"),
        (
            "would be fetched" if dry_run else "fetched",
            f"{report.fetched}, {human_size(report.fetched_size)}",
        ),
        ("freed", f"{report.pruned.artifacts}, {human_size(report.pruned.size)}"),
        ("snapshot", report.snapshot or "none yet"),
        ("index", index_url(config.port)),
        *((f"  {step}", human_time(seconds)) for step, seconds in report.steps.items()),
    ]
    print_table("", ("refresh", ""), rows)
    for sentence in report.left_out:
        say(sentence)
    if report.unread_sdists:
        say(f"what building {plural(report.unread_sdists, 'sdist')} needs is known only after the fetch")
    if not report.changed:
        say("nothing changed" if not dry_run else "nothing would be fetched")
    elif not dry_run:
        say("`mirror serve` serves it; `imagegen build NAME` bakes it into an image")
