"""`imagegen verify`: the checks of an image, and their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen import verify as verifying
from imagegen.cli import NameArgument, load_image
from imagegen.engines.connect import docker_engine
from imagegen.errors import EngineUnavailableError, VerifyError
from imagegen.live import Progress, live
from imagegen.spec import DockerBase, ImageSpec
from mirror import config as configuration
from mirror.config import Config
from mirror.console import human_time, plural, print_json, print_table, say
from mirror.options import ConfigOption, JsonOption
from mirror.store import output_path, write_atomically

commands = typer.Typer()


@commands.command()
def verify(
    name: NameArgument,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", help="Also write the report as JUnit XML.", metavar="FILE"),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Run an image's checks in a container without a network, and report.

    Where no Docker engine answers, bubblewrap runs them in the image's unpacked layers. The report
    is also written to reports/NAME.json in the mirror's folder.
    """
    loaded, spec = load_image(config, name)
    written = junit and output_path(junit)
    with live() as progress:
        report = _verified(loaded, spec, progress)
    if written:
        from imagegen.junit import junit as to_junit

        write_atomically(written, to_junit(report))
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    failed = [check.name for check in report.checks if not check.ok]
    if failed:
        raise VerifyError(
            f"{len(failed)} of {plural(len(report.checks), 'check')} failed: {'; '.join(failed)}",
            where=report.reference,
            hint=f"the whole report is {verifying.report_file(loaded, spec)}; "
            f"`docker run --rm -it --network none {report.reference}` looks around",
        )


def _verified(config: Config, spec: ImageSpec, progress: Progress) -> verifying.Report:
    try:
        engine = docker_engine()
    except EngineUnavailableError:
        if isinstance(spec.base, DockerBase):
            raise
        say("note: no Docker engine answers; bubblewrap runs the checks")
        return verifying.verify_unpacked(config, spec, progress)
    return verifying.verify(config, spec, engine, progress)


def _print_report(report: verifying.Report) -> None:
    rows = [
        ("✓" if check.ok else "✗", check.name, human_time(check.seconds), _last_line(check))
        for check in report.checks
    ]
    print_table(
        f"{report.reference}  id {report.image}  in {report.engine}", ("", "check", "time", "result"), rows
    )
    for check in report.checks:
        if not check.ok:
            say(f"\n✗ {check.name}")
            for line in check.output.splitlines():
                say(f"  │ {line}")


def _last_line(check: verifying.Check) -> str:
    lines = check.output.splitlines()
    if check.name == verifying.ISOLATION:
        return f"{len(lines)} attempts, {'none got out' if check.ok else 'something is open'}"
    return lines[-1][:100] if lines else ""
