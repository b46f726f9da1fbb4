"""The worker processes the newest item, counts dropped and failed ones, and stops."""

from __future__ import annotations

import threading
import time

from multimodal_perception.ros.worker import NewestFirstWorker


def test_only_the_newest_waiting_item_is_processed_and_drops_are_counted() -> None:
    started, release, done = threading.Event(), threading.Event(), []

    def process(item: int) -> None:
        started.set()
        release.wait(60)
        done.append(item)

    worker = NewestFirstWorker(process, lambda error: None)
    worker.submit(0)
    assert started.wait(30)
    for i in range(1, 6):
        worker.submit(i)
    release.set()
    end = time.monotonic() + 30
    while len(done) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert done == [0, 5]
    assert worker.dropped == 4
    assert worker.stop()


def test_a_failed_item_is_reported_and_the_next_one_is_processed() -> None:
    errors, done = [], threading.Event()

    def process(item: str) -> None:
        if item == "bad":
            raise ValueError("no")
        done.set()

    worker = NewestFirstWorker(process, errors.append)
    worker.submit("bad")
    end = time.monotonic() + 30
    while not worker.failed and time.monotonic() < end:
        time.sleep(0.01)
    worker.submit("good")
    assert done.wait(30)
    assert worker.failed == 1 and str(errors[0]) == "no"
    assert worker.stop()


def test_stop_waits_at_most_for_the_timeout() -> None:
    started, release = threading.Event(), threading.Event()

    def process(item: int) -> None:
        started.set()
        release.wait(60)

    worker = NewestFirstWorker(process, lambda error: None)
    worker.submit(1)
    assert started.wait(30)
    assert not worker.stop(0.1)
    release.set()
    assert worker.stop(30)
