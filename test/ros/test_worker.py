"""The newest item wins, each one passed over is counted."""

from __future__ import annotations

import threading
import time

from multimodal_perception.ros.worker import NewestFirstWorker


def test_the_newest_wins_and_drops_are_counted() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def process(item: int) -> None:
        begun.set()
        go_on.wait(5)
        done.append(item)

    worker = NewestFirstWorker(process, lambda error: None)
    worker.submit(0)
    assert begun.wait(5)
    for i in range(1, 6):
        worker.submit(i)
    go_on.set()
    end = time.monotonic() + 5
    while len(done) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert done == [0, 5]
    assert worker.dropped == 4
    assert worker.stop()


def test_an_item_that_fails_is_reported_and_the_next_one_is_processed() -> None:
    errors, done = [], threading.Event()

    def process(item: str) -> None:
        if item == "bad":
            raise ValueError("no")
        done.set()

    worker = NewestFirstWorker(process, errors.append)
    worker.submit("bad")
    end = time.monotonic() + 5
    while not worker.failed and time.monotonic() < end:
        time.sleep(0.01)
    worker.submit("good")
    assert done.wait(5)
    assert worker.failed == 1 and str(errors[0]) == "no"
    assert worker.stop()


def test_stopping_waits_no_longer_than_said() -> None:
    hold = threading.Event()
    worker = NewestFirstWorker(lambda item: hold.wait(5), lambda error: None)
    worker.submit(1)
    time.sleep(0.1)
    assert not worker.stop(0.1)
    hold.set()
    assert worker.stop(5)
