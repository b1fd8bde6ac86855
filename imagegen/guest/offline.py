"""Says in one sentence that the sandbox is offline, when pip, uv or npm does not find a package.

Lies as `lockstock_offline` in the standard library of the image's Python, where every virtual
environment has it. `sitecustomize` calls `hook` at each start of Python, so little may happen
there; `python -m lockstock_offline PROGRAM ARGUMENT…` runs uv, npm or npx.
"""

from __future__ import annotations

import sys

HOME = "/opt/lockstock"
_CAPTURED = {"add", "build", "export", "lock", "pip", "remove", "sync", "tree"}
_NPM_CAPTURED = {
    "add", "ci", "clean-install", "create", "exec", "i", "init", "install", "update", "view", "x",
}  # fmt: skip
# Options of Python whose value is a word of its own.
_VALUED = ("-W", "-X", "--check-hash-based-pycs")
_PIP_FILES = ("__main__.py", "__pip-runner__.py")
_NOT_FOUND = "No matching distribution found for "
_NEEDLESS = ("Could not find a ", "Looking in links: ")
_UV_MISSING = (
    r"Because (\S+) was not found in the provided package locations",
    r"there is no version of (\S+) and",
    r"only .+? (?:is|are) available.*? (?:requires?|depends on) (\S+?),",
    r"requested data wasn't found in the cache: (\S+)",
)
_NPM_MISSING = (
    r"request to https?://[^/\s]+/(?:npm/)?(\S+?)(?:/-/\S*)? failed: cache mode is 'only-if-cached'",
    r"No matching version found for (\S+?@\S+?)\.(?:\s|$)",
)
_TAIL = 65536


def hook() -> None:
    """Change what pip says, where this process is pip."""
    if is_pip(getattr(sys, "orig_argv", [])):
        _rewrite_records()


def is_pip(argv: list[str]) -> bool:
    """Say whether the command line of a Python runs pip, as a script or as a module."""
    words = iter(argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "") == "pip"
        if word == "-c":
            return False
        if word in _VALUED:
            next(words, "")
        elif not word.startswith("-"):
            folder, _, name = word.rpartition("/")
            if folder.endswith("/pip"):
                return name in _PIP_FILES
            return name.startswith("pip") and not name[3:].strip("0123456789.")
    return False


def sentence(request: str, stocked: list[str], ask: str) -> str:
    """Say that `request` is not there, which versions are, and how to ask for it."""
    versions = f" (stocked: {', '.join(stocked)})" if stocked else ""
    return f"this sandbox is offline and {request} is not stocked{versions}; {ask}"


def explain(request: str) -> str:
    """Make the sentence from what lies in this image."""
    import re
    from pathlib import Path

    wanted = re.sub(r"[-_.]+", "_", re.split(r"[^\w.-]", request)[0]).lower()
    names = [wheel.name.split("-") for wheel in sorted(Path(HOME, "wheels").glob("*.whl"))]
    stocked = [parts[1] for parts in names if parts[0].lower().replace(".", "_") == wanted]
    return _told(request, stocked)


def explain_npm(request: str) -> str:
    """Make the sentence for an npm package, whose stocked versions a file of this image lists."""
    from pathlib import Path
    from urllib.parse import unquote

    wanted = unquote(request)
    name = wanted if wanted.rfind("@") < 1 else wanted[: wanted.rfind("@")]
    lines = Path(HOME, "npm", "stocked.txt").read_text(encoding="utf-8").splitlines()
    return _told(wanted, [line.split(" ")[1] for line in lines if line.split(" ")[0] == name])


def _told(request: str, stocked: list[str]) -> str:
    from pathlib import Path

    return sentence(request, stocked, Path(HOME, "ask.txt").read_text(encoding="utf-8").strip())


def _rewrite_records() -> None:
    import logging

    make = logging.getLogRecordFactory()

    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        made = make(*args, **kwargs)
        text = made.msg if made.name.startswith("pip.") and isinstance(made.msg, str) else ""
        if text.startswith(_NEEDLESS):
            made.levelno, made.levelname = logging.DEBUG, "DEBUG"
        elif text.startswith(_NOT_FOUND):
            made.msg, made.args = "%s", (explain(text[len(_NOT_FOUND) :]),)
        elif host := _unreachable(text):
            made.msg, made.args = "%s", (explain(f"what lies at {host}"),)
        elif host := _refused(made.args):
            # this one does not pass the formatter that says ERROR
            made.msg, made.args = "%s", (f"ERROR: {explain(f'what lies at {host}')}",)
        return made

    logging.setLogRecordFactory(record)


def _unreachable(text: str) -> str:
    """Give the host of a download that pip could not make."""
    if "HTTPSConnectionPool(host='" in text or "HTTPConnectionPool(host='" in text:
        return text.partition("(host='")[2].partition("'")[0]
    return ""


def _refused(args: object) -> str:
    """Give the host of a download that a newer pip could not make: it logs an error with a reference."""
    error = args[0] if isinstance(args, tuple) and args else None
    if getattr(error, "reference", "") != "connection-failed":
        return ""
    import re

    message = re.sub(r"\[[a-z/]*\]", "", str(getattr(error, "message", "")))
    host = re.search(r"Failed to connect to ([\w.:-]+)", message)
    return host[1] if host else ""


def missing(output: str, patterns: tuple[str, ...] = _UV_MISSING) -> str:
    """Find in a client's messages what it did not find; empty when it failed for another reason."""
    import re

    flat = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(output.split()))
    found = [match for pattern in patterns if (match := re.search(pattern, flat))]
    return found[0][1].strip("`,.") if found else ""


def main() -> None:
    """Run uv, npm or npx with the arguments; where it did not find something, say the sentence too."""
    import os

    name, *arguments = sys.argv[1:]
    words = [word for word in arguments if not word.startswith("-")]
    is_npm = name in ("npm", "npx")
    program = _found(name) if is_npm else name
    captured = _NPM_CAPTURED if is_npm else _CAPTURED
    known = name == "npx" or (words and (words[0] in captured or words[:2] == ["tool", "install"]))
    if not known:
        os.execv(program, [program, *arguments])  # noqa: S606 - the arguments go on as they came
    code, output = _run([program, *arguments])
    request = missing(output, _NPM_MISSING if is_npm else _UV_MISSING) if code else ""
    if request and is_npm:
        sys.stderr.write(f"npm error {explain_npm(request)}\n")
    elif request:
        sys.stderr.write(f"error: {explain(request)}\n")
    sys.exit(code)


def _found(name: str) -> str:
    """Give the base's own program of a name that this image has a program for, too."""
    import os

    own = os.path.realpath(f"{HOME}/bin")
    for folder in os.get_exec_path():
        place = os.path.join(folder, name)  # noqa: PTH118 - pathlib takes long to import
        if os.path.realpath(folder) != own and os.access(place, os.X_OK):
            return place
    sys.exit(f"{name}: not found")


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command with its stderr passed on and kept; give exit code and the end of stderr."""
    import os
    import subprocess

    environment = dict(os.environ)
    if sys.stderr.isatty():
        environment.setdefault("FORCE_COLOR", "1")
    kept = b""
    reading, writing = os.pipe()
    with subprocess.Popen(command, stderr=writing, env=environment) as process:
        os.close(writing)
        try:
            while chunk := os.read(reading, _TAIL):
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
                kept = (kept + chunk)[-_TAIL:]
        except KeyboardInterrupt:
            pass  # uv has it too, and ends by itself
    return (process.returncode if process.returncode >= 0 else 128 - process.returncode), kept.decode(
        errors="replace"
    )


if __name__ == "__main__":
    main()
