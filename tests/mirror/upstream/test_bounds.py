"""Requests at a time."""

from __future__ import annotations

import asyncio

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
