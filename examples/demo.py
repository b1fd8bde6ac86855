"""The main job on an example, from lock-file to verified image: `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mirror.console import human_size, human_time, plural, print_table, say

EXAMPLES = Path(__file__).parent


def main(example: str) -> int:
    """Run the example's three steps and sum them up; gives the exit code."""
    file = EXAMPLES / example / "lockstock.toml"
    if not file.exists():
        folders = [path.parent for path in EXAMPLES.glob("*/lockstock.toml")]
        # One that builds something of its own first is no demo.
        known = ", ".join(sorted(one.name for one in folders if not (one / "build.py").exists()))
        say(f"error: there is no example {example!r}\nhint: there are {known}")
        return 2
    begun = time.perf_counter()
    stocked, stock_time = run("mirror", "refresh", file)
    built, build_time = run("imagegen", "build", file, example)
    report = file.parent / ".lockstock" / "reports" / f"{example}.json"
    if already_verified(report, built["image"]):
        verified, verify_time = json.loads(report.read_text()), 0.0
    else:
        verified, verify_time = run("imagegen", "verify", file, example)
    rows = [
        (
            "stocked",
            f"{plural(stocked['packages'], 'package')}, {human_size(stocked['size'])}",
            human_time(stock_time),
        ),
        (
            "built",
            f"{plural(built['installed'] + built['npm'], 'package')} in {human_size(built['size'])}",
            human_time(build_time),
        ),
        (
            "verified",
            f"{plural(len(verified['checks']), 'check')} without a network",
            human_time(verify_time),
        ),
        ("image", built["reference"], ""),
        ("digest", built["image"], ""),
        ("place", built["place"], ""),
        ("mirror", str(file.parent / ".lockstock"), ""),
        ("report", str(report), ""),
    ]
    changed = stocked["changed"] or built["changed"] or verify_time
    say(f"\n{'done' if changed else 'nothing changed'} in {human_time(time.perf_counter() - begun)}")
    print_table("", ("", "", "time"), rows)
    say("\nnext:")
    for line in (*hints(built, file), "docs/tutorial.md does the same for a project of yours"):
        say(f"  {line}")
    return 0


def hints(built: dict[str, Any], file: Path) -> tuple[str, ...]:
    """Say what can be done with the image where it is."""
    change = f"change a lock below {file.parent}, and run this again"
    if built["place"] == "docker":
        return (f"docker run --rm -it --network none {built['reference']}   # look around", change)
    name, command = built["name"], Path(sys.executable).with_name("imagegen")
    return (
        f"{command} build {name} -c {file} -o tar:{name}.tar   # docker, podman and skopeo load it",
        f"{command} push {name} -c {file} HOST/{name}   # to a registry",
        change,
    )


def run(command: str, verb: str, config: Path, *names: str) -> tuple[dict[str, Any], float]:
    """Run one step with its messages shown, and give its report and seconds; ends the demo if it fails."""
    arguments = [command, verb, *names, "--config", str(config), "--json"]
    say(f"$ {' '.join(arguments[:-1])}")
    begun = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return json.loads(ended.stdout), time.perf_counter() - begun


def already_verified(report: Path, image: str) -> bool:
    """Say whether this very image has passed before."""
    if not report.exists():
        return False
    known = json.loads(report.read_text())
    return known["ok"] and known["image"] == image


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ["service"]))
