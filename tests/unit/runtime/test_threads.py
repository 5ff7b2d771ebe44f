"""A pass of placement in a thread does not make each answer from the network wait for it."""

from __future__ import annotations

import os
import select
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from weft.runtime.threads import let_the_event_loop_in


@pytest.fixture(autouse=True)
def _interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def computed_at_each_wait() -> float:
    """Median seconds of CPU that a computing thread takes each time that this one waits for 0.1 ms."""
    done, clocks = threading.Event(), []

    def compute() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        while not done.is_set():
            sum(range(100))

    reader, writer = os.pipe()
    thread = threading.Thread(target=compute)
    thread.start()
    try:
        while not clocks:
            os.sched_yield()
        taken = []
        for _ in range(30):
            before = time.clock_gettime(clocks[0])
            select.select([reader], [], [], 0.0001)
            taken.append(time.clock_gettime(clocks[0]) - before)
    finally:
        done.set()
        thread.join()
        os.close(reader)
        os.close(writer)
    return statistics.median(taken)


def test_a_thread_that_computes_gives_way_sooner_than_by_default() -> None:
    # Where other processes have the processor a single try says little.
    sys.setswitchinterval(0.005)
    by_default = max(computed_at_each_wait() for _ in range(3))
    let_the_event_loop_in()

    assert min(computed_at_each_wait() for _ in range(3)) < by_default / 2
