"""Rates and byte budgets: token buckets as pure state, and what of a budget is left."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most requests a second with a burst above that, and the most bytes out and in; None is no limit."""

    rate: float | None = None
    burst: int = 1
    sent: int | None = None
    received: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket at a moment of a monotonic clock, in seconds."""

    tokens: float
    at: float


def take(bucket: Bucket | None, limits: Limits, now: float) -> tuple[Bucket, bool]:
    """Take one token if there is one: the bucket afterwards, and whether it was there."""
    if limits.rate is None:
        return Bucket(0, now), True
    before = bucket or Bucket(limits.burst, now)
    tokens = min(limits.burst, before.tokens + max(0.0, now - before.at) * limits.rate)
    return (Bucket(tokens - 1, now), True) if tokens >= 1 else (Bucket(tokens, now), False)


@dataclass(slots=True)
class Usage:
    """What one rule or one task has used; `over` says when a budget is spent."""

    limits: Limits
    bucket: Bucket | None = None
    sent: int = 0
    received: int = 0

    @property
    def over(self) -> bool:
        """Whether more bytes went through than the budget has."""
        limits = self.limits
        return (limits.sent is not None and self.sent > limits.sent) or (
            limits.received is not None and self.received > limits.received
        )

    @property
    def spent(self) -> bool:
        """Whether nothing of a budget is left, so that no new request may begin."""
        limits = self.limits
        return (limits.sent is not None and self.sent >= limits.sent) or (
            limits.received is not None and self.received >= limits.received
        )

    def admit(self, now: float) -> bool:
        """Take one request from the rate, if it is there."""
        self.bucket, admitted = take(self.bucket, self.limits, now)
        return admitted


@dataclass(slots=True)
class Meter:
    """The usage of a task and of each rule it goes by."""

    task: Usage
    rules: dict[str, Usage] = field(default_factory=dict)

    def usages(self, rule: str, limits: Limits) -> tuple[Usage, Usage]:
        """Give what a request by `rule` counts against: the task and the rule."""
        return self.task, self.rules.setdefault(rule, Usage(limits))
