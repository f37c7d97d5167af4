"""One thread that computes, in turn, what pages ask for, and lets go of what nobody waits for any more."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
MOST_WAITING = 8
_LOOK = 0.2  # seconds between two looks whether the asker is still there


class Abandoned(Exception):
    """Nobody waits for this computation any more."""


class Busy(Exception):
    """More is waiting already than one person at one page can have asked for."""


class Worker:
    """The thread; `stop` ends it within one evaluation of a network."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="advect-studio")
        self._waiting = 0
        self._closed = threading.Event()

    async def run(self, job: Callable[[Callable[[], None]], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """The result of a job.

        Args:
            job: Is given a function to call often, which raises `Abandoned` once the work is in vain.
            gone: Whether the asker has left.

        Raises:
            Busy: Too much is waiting.
            Abandoned: The asker has left, or the worker was stopped.
        """
        if self._waiting >= MOST_WAITING:
            raise Busy
        left = threading.Event()

        def look() -> None:
            if left.is_set() or self._closed.is_set():
                raise Abandoned

        def guarded() -> T:
            look()
            return job(look)

        self._waiting += 1
        try:
            result = asyncio.get_running_loop().run_in_executor(self._pool, guarded)
            while True:
                done, _ = await asyncio.wait({result}, timeout=_LOOK)
                if done:
                    return result.result()
                if await gone():
                    left.set()
        finally:
            left.set()
            self._waiting -= 1

    def stop(self) -> None:
        """Let go of everything."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
