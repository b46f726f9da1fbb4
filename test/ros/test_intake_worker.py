"""Messages are processed in order on a thread; what will not be used is dropped before decoding."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.ros.intake_worker import MAX_WAITING, IntakeFrame, IntakeWorker
from multimodal_perception.synchronization.intake import DeferredFrame


class FakeIntake:
    """Every message of /lidar completes a frame; `gate` delays each message."""

    def __init__(self) -> None:
        self.deferred = False
        self.drops: Counter[tuple[str, str]] = Counter()
        self.received: list[tuple[str, Any]] = []
        self.assembled: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def receive(self, topic: str, msg: Any, now_ns: int) -> list[DeferredFrame]:
        self.gate.wait(60)
        if msg == "bad":
            raise ValueError("bad message")
        self.received.append((topic, msg))
        if topic != "/lidar":
            return []
        return [DeferredFrame(msg, lambda: self._assemble(msg))]

    def advance(self, now_ns: int) -> list[DeferredFrame]:
        return [DeferredFrame(now_ns, lambda: self._assemble(now_ns))]

    def _assemble(self, stamp_ns: int) -> SensorFrame:
        self.assembled.append(stamp_ns)
        return SensorFrame(stamp_ns)


class Consumer:
    def __init__(self) -> None:
        self.ready, self.frames = True, []  # type: ignore[var-annotated]
        self.errors: list[Exception] = []

    def submit(self, item: IntakeFrame) -> None:
        self.frames.append(item)


@pytest.fixture
def parts() -> Iterator[tuple[FakeIntake, Consumer, IntakeWorker]]:
    intake, consumer = FakeIntake(), Consumer()
    worker = IntakeWorker(
        intake,  # type: ignore[arg-type]
        consumer.submit,
        lambda: consumer.ready,
        consumer.errors.append,
        {"/lidar": "lidar", "/camera": "camera"},
    )
    yield intake, consumer, worker
    intake.gate.set()
    assert worker.stop(30)


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def finish(worker: IntakeWorker) -> None:
    """Wait until everything that was enqueued before has been processed."""
    done = threading.Event()
    worker.call(done.set)
    assert done.wait(30)


def test_messages_are_processed_in_order_and_enqueueing_does_not_wait(parts: Any) -> None:
    intake, consumer, worker = parts
    intake.gate.clear()
    start = time.perf_counter()
    for k, topic in enumerate(("/tf", "/camera", "/lidar", "/odom")):
        worker.receive(topic, k, 0, time.perf_counter())
    assert time.perf_counter() - start < 10.0  # the gate is closed for 60 s
    intake.gate.set()
    finish(worker)
    assert intake.received == [("/tf", 0), ("/camera", 1), ("/lidar", 2), ("/odom", 3)]
    assert intake.deferred and [f.frame.stamp_ns for f in consumer.frames] == [2]
    frame = consumer.frames[0]
    assert frame.arrival_s <= frame.started_s <= frame.ready_s


def test_old_messages_of_an_overloaded_sensor_are_dropped_undecoded_and_counted(parts: Any) -> None:
    intake, _, worker = parts
    intake.gate.clear()
    worker.receive("/tf", -1, 0, 0.0)  # occupies the thread
    time.sleep(0.05)
    for k in range(10):
        worker.receive("/camera", k, 0, 0.0)
        worker.receive("/tf", 100 + k, 0, 0.0)
    intake.gate.set()
    finish(worker)
    images = [msg for topic, msg in intake.received if topic == "/camera"]
    assert images == list(range(10 - MAX_WAITING, 10))
    assert intake.drops == {("camera", "overload"): 10 - MAX_WAITING}
    assert len([1 for topic, _ in intake.received if topic == "/tf"]) == 11


def test_frames_are_assembled_only_when_the_consumer_is_ready(parts: Any) -> None:
    intake, consumer, worker = parts
    consumer.ready = False
    for stamp in (10, 20, 30):
        worker.receive("/lidar", stamp, 0, 0.0)
    finish(worker)
    assert not intake.assembled and worker.replaced == 2
    worker.consumer_became_ready()
    finish(worker)
    assert intake.assembled == [30] and consumer.frames[0].frame.stamp_ns == 30


def test_the_period_counts_all_frames_also_those_that_are_replaced(parts: Any) -> None:
    _intake, consumer, worker = parts
    for k in range(1, 9):
        consumer.ready = k in (1, 5, 8)
        worker.receive("/lidar", k * 100_000_000, 0, 0.0)
        finish(worker)
    assert [round(f.period_s, 6) for f in consumer.frames] == [0.0, 0.1, 0.1]


def test_time_advances_after_the_messages_that_were_enqueued_before(parts: Any) -> None:
    intake, _consumer, worker = parts
    worker.receive("/tf", 1, 0, 0.0)
    worker.advance(7)
    finish(worker)
    assert intake.received == [("/tf", 1)] and intake.assembled == [7]


def test_an_error_does_not_end_the_thread(parts: Any) -> None:
    intake, consumer, worker = parts
    worker.receive("/camera", "bad", 0, 0.0)
    worker.receive("/camera", 1, 0, 0.0)
    finish(worker)
    assert str(consumer.errors[0]) == "bad message" and intake.received == [("/camera", 1)]
