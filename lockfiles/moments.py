"""Moments as package indexes write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)


def moment(value: object) -> str | None:
    """Give a moment in the form that PEP 700 asks for; None for all that is none.

    `value` is that form already, or a datetime, as TOML has them (PEP 751); without a zone it is UTC.
    """
    if isinstance(value, datetime):
        there = value if value.tzinfo else value.replace(tzinfo=UTC)
        value = f"{there.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
    return value if isinstance(value, str) and _MOMENT.fullmatch(value) else None
