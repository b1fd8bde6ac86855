"""YAML as typed tables: a module of its own, for few locks are YAML, and its parser takes long to import."""

from __future__ import annotations

from typing import Any

import yaml

from lockfiles.document import Document, Table
from lockfiles.errors import LockstockError

_DEEPEST = 50


def parse_yaml(name: str, text: str, error: type[LockstockError]) -> Table:
    """Parse a YAML mapping, all of whose scalars are strings, into a table."""
    try:
        value = _yaml_value(text)
    except yaml.MarkedYAMLError as fault:
        line = f":{fault.problem_mark.line + 1}" if fault.problem_mark else ""
        raise error(f"not valid YAML: {fault.problem}", where=f"{name}{line}") from fault
    except (yaml.YAMLError, ValueError) as fault:
        raise error(f"not valid YAML: {str(fault).splitlines()[0]}", where=name) from fault
    if not isinstance(value, dict):
        raise error("not a YAML mapping", where=name)
    return Table(Document(name, "", error), value)


def _yaml_value(text: str) -> Any:
    """Build one document of libyaml's events: its own composer recurses in C until the process dies.

    Raises ValueError for what no lock has: aliases, which let few bytes stand for many, and depth.
    """
    top: list[Any] = []
    stack: list[list[Any]] = [top]
    for event in yaml.parse(text, Loader=yaml.CBaseLoader):
        if isinstance(event, yaml.AliasEvent) or len(stack) > _DEEPEST or len(top) > 1:
            raise ValueError("aliases, several documents and deep nesting are not for lock-files")
        if isinstance(event, yaml.ScalarEvent):
            stack[-1].append(event.value)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            stack.append([])
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            items = stack.pop()
            stack[-1].append(_mapping(items) if isinstance(event, yaml.MappingEndEvent) else items)
    return top[0] if top else None


def _mapping(items: list[Any]) -> dict[str, Any]:
    """Pair keys with values. Raises ValueError for keys that are not strings, or there twice."""
    keys = items[::2]
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("keys must be strings, each there once")
    return dict(zip(keys, items[1::2], strict=True))
