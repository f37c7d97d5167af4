"""One computation at a time, given up when nobody waits for it."""

import asyncio
import threading
import time

import pytest

from advect.studio.worker import MOST_WAITING, Abandoned, Busy, Worker


async def here():
    return False


def test_one_after_another():
    worker, running, most = Worker(), [0], [0]

    def job(look):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        return threading.current_thread().name

    async def all_of_them():
        return await asyncio.gather(*(worker.run(job, here) for _ in range(MOST_WAITING)))

    names = asyncio.run(all_of_them())
    worker.stop()
    assert most == [1]
    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name


def endless(look):
    while True:
        look()
        time.sleep(0.001)


def test_who_leaves_is_not_computed_for():
    worker, asked = Worker(), [0]

    async def gone():
        asked[0] += 1
        return asked[0] > 1

    with pytest.raises(Abandoned):
        asyncio.run(worker.run(endless, gone))
    assert asyncio.run(worker.run(lambda look: 5, here)) == 5
    worker.stop()


def test_too_much_is_refused():
    worker = Worker()

    async def crowd():
        tasks = [asyncio.create_task(worker.run(endless, here)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy):
            await worker.run(endless, here)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await worker.run(lambda look: "free again", here)

    assert asyncio.run(crowd()) == "free again"
    worker.stop()


def test_stop_ends_what_runs():
    worker = Worker()

    async def stopped():
        task = asyncio.create_task(worker.run(endless, here))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(worker.stop)
        with pytest.raises(Abandoned):
            await task

    asyncio.run(asyncio.wait_for(stopped(), 60))


def test_errors_come_through():
    worker = Worker()

    def broken(look):
        raise ZeroDivisionError("of the job")

    with pytest.raises(ZeroDivisionError, match="of the job"):
        asyncio.run(worker.run(broken, here))
    worker.stop()
