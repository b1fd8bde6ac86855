"""Requests at a time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.bounds import Bounds


def test_who_waits_for_a_slow_host_takes_no_turn_of_the_others() -> None:
    async def run() -> list[str]:
        bounds, done, slow = Bounds(2, 1), [], asyncio.Event()

        async def ask(url: str, answer: asyncio.Event | None = None) -> None:
            async with bounds.turn(url):
                if answer:
                    await answer.wait()
                done.append(url)

        waiting = [asyncio.create_task(ask(f"https://me:x@Slow.example/{n}", slow)) for n in range(3)]
        async with asyncio.timeout(10):
            for n in range(3):
                await ask(f"https://fast.example/{n}")
            slow.set()
            await asyncio.gather(*waiting)
        return done

    fast, slow = (
        [f"https://fast.example/{n}" for n in range(3)],
        [f"https://me:x@Slow.example/{n}" for n in range(3)],
    )
    assert asyncio.run(run()) == [*fast, *slow]


def test_the_weightiest_of_those_that_wait_goes_first() -> None:
    async def run() -> list[float]:
        bounds, done, held = Bounds(2, 1), [], asyncio.Event()

        async def ask(weight: float) -> None:
            async with bounds.turn("https://one.example/", weight):
                await held.wait()
                done.append(weight)

        waiting = [asyncio.create_task(ask(weight)) for weight in (1, 2, 50, math.inf, 3, 50)]
        await asyncio.sleep(0)
        held.set()
        await asyncio.gather(*waiting)
        return done

    assert asyncio.run(run()) == [1, math.inf, 50, 50, 3, 2]


def test_a_turn_is_not_kept_for_one_that_was_cancelled_and_does_not_know_it_yet() -> None:
    async def run() -> None:
        bounds = Bounds(1, 1)

        async def ask() -> None:
            async with bounds.turn("https://one.example/"):
                pass

        async with asyncio.timeout(5):
            async with bounds.turn("https://one.example/"):
                waiting = asyncio.create_task(ask())
                await asyncio.sleep(0)
                waiting.cancel()
            await ask()

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=30))
def test_no_turn_is_lost_or_given_twice(jobs: list[tuple[int, int, bool]]) -> None:
    """Whoever waits may be cancelled at any moment, also at that at which the turn comes."""

    async def run() -> None:
        bounds, now = Bounds(3, 2), Counter[str]()

        async def ask(weight: int, steps: int) -> None:
            host = f"{weight % 2}.example"
            async with bounds.turn(f"https://{host}/", weight):
                now[host] += 1
                assert now[host] <= 2
                assert now.total() <= 3
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    now[host] -= 1

        tasks = []
        for weight, steps, cancelled in jobs:
            tasks.append(asyncio.create_task(ask(weight, steps)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[len(tasks) // 2].cancel()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
            now.clear()
            await asyncio.gather(*(ask(weight, 2) for weight in range(8)))
        assert not [error for error in results if isinstance(error, AssertionError)]

    asyncio.run(run())
