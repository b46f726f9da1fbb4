"""Decodes and synchronises messages, and assembles frames, on a thread of its own.

The executor's thread only enqueues messages: decoding a point cloud or a JPEG image takes longer than
the interval between messages, which would wait in DDS and be lost.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from multimodal_perception.frame import SensorFrame
from multimodal_perception.synchronization.intake import DeferredFrame, MessageIntake

# Messages of one sensor that wait for the thread. If more arrive, the oldest one is dropped undecoded.
MAX_WAITING = 3
PERIODS = 9  # intervals of which the median is the frame period


class IntakeFrame(NamedTuple):
    """A frame that its last message has completed.

    arrival_s, started_s, ready_s: time.perf_counter() when the executor received that message, when
    this thread began to decode it, and when the frame was assembled. period_s: median time between the
    stamps of the latest frames, 0 for the first frame.
    """

    frame: SensorFrame
    arrival_s: float
    started_s: float
    ready_s: float
    period_s: float


class _Message(NamedTuple):
    topic: str
    msg: Any
    arrival_ns: int
    arrival_s: float


class _Pending(NamedTuple):
    """A closed set of readings that waits until the consumer is ready."""

    deferred: DeferredFrame
    arrival_s: float
    started_s: float


class IntakeWorker:
    """One thread that owns a MessageIntake; items are processed in the order in which they are enqueued.

    A frame that is completed while the consumer is busy is assembled (deskewed) when the consumer is
    ready, unless a newer one replaces it. A message of a sensor is dropped undecoded, and counted by the
    intake as `overload`, if MAX_WAITING newer ones of the sensor wait. replaced: frames that were
    replaced by a newer one before they were assembled.
    """

    def __init__(
        self,
        intake: MessageIntake,
        submit: Callable[[IntakeFrame], None],
        consumer_is_ready: Callable[[], bool],
        on_error: Callable[[Exception], None],
        sensors: Mapping[str, str],
    ) -> None:
        """sensors: sensor by topic. Messages of other topics are always processed."""
        self._intake = intake
        intake.deferred = True
        self._submit_frame = submit
        self._consumer_is_ready = consumer_is_ready
        self._on_error = on_error
        self._sensors = dict(sensors)
        self._condition = threading.Condition()
        self._queue: deque[_Message | Callable[[], None]] = deque()
        self._waiting: Counter[str] = Counter()
        self._excess: Counter[str] = Counter()  # messages to drop when they reach the front
        self._stopping = False
        self._pending: _Pending | None = None
        self._last_stamp_ns: int | None = None
        self._periods_s: deque[float] = deque(maxlen=PERIODS)
        self.replaced = 0
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def receive(self, topic: str, msg: Any, arrival_ns: int, arrival_s: float) -> None:
        """Enqueue a message. arrival_ns: time of the node. arrival_s: time.perf_counter()."""
        with self._condition:
            self._queue.append(_Message(topic, msg, arrival_ns, arrival_s))
            if topic in self._sensors:
                self._waiting[topic] += 1
                if self._waiting[topic] - self._excess[topic] > MAX_WAITING:
                    self._excess[topic] += 1
            self._condition.notify()

    def advance(self, now_ns: int) -> None:
        """Enqueue that the time has advanced, so that frames at their deadline are closed."""
        arrival_s = time.perf_counter()
        self.call(lambda: self._take(self._intake.advance(now_ns), arrival_s, arrival_s))

    def call(self, function: Callable[[], None]) -> None:
        """Enqueue a function that may read the intake's state."""
        with self._condition:
            self._queue.append(function)
            self._condition.notify()

    def consumer_became_ready(self) -> None:
        """Assemble the waiting frame before other items; call it when the consumer has finished one."""
        with self._condition:
            self._queue.appendleft(self._assemble_pending)
            self._condition.notify()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the present item. Returns False if it is still busy after the timeout."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                item = self._queue.popleft()
                if isinstance(item, _Message) and self._is_excess(item.topic):
                    continue
            try:
                if isinstance(item, _Message):
                    self._process(item)
                else:
                    item()
            except Exception as error:  # a message must not end the thread
                self._on_error(error)

    def _is_excess(self, topic: str) -> bool:
        """Whether a message at the front of the queue is dropped. The caller holds the lock."""
        if topic not in self._sensors:
            return False
        self._waiting[topic] -= 1
        if not self._excess[topic]:
            return False
        self._excess[topic] -= 1
        self._intake.drops[self._sensors[topic], "overload"] += 1
        return True

    def _process(self, item: _Message) -> None:
        started_s = time.perf_counter()
        completed = self._intake.receive(item.topic, item.msg, item.arrival_ns)
        self._take(completed, item.arrival_s, started_s)

    def _take(self, completed: list[Any], arrival_s: float, started_s: float) -> None:
        """Keep the newest of the completed frames, and assemble it if the consumer is ready."""
        for deferred in completed:
            if self._last_stamp_ns is not None and deferred.stamp_ns > self._last_stamp_ns:
                self._periods_s.append(1e-9 * (deferred.stamp_ns - self._last_stamp_ns))
            self._last_stamp_ns = deferred.stamp_ns
            self.replaced += self._pending is not None
            self._pending = _Pending(deferred, arrival_s, started_s)
        if self._pending is not None and self._consumer_is_ready():
            self._assemble_pending()

    def _assemble_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        frame = pending.deferred.assemble()
        period_s = statistics.median(self._periods_s) if self._periods_s else 0.0
        ready_s = time.perf_counter()
        self._submit_frame(
            IntakeFrame(frame, pending.arrival_s, pending.started_s, ready_s, period_s)
        )
