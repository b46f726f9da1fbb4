"""message_filters' interface over our synchronizers: filters in, callbacks with messages out.

Works with message_filters.Subscriber and whatever else has registerCallback; imports no ROS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.synchronization.message_filters_policies import AnySynchronizer
from multimodal_perception.synchronization.synchronizer import ReadingSet


class Filter(Protocol):
    """What message_filters.SimpleFilter offers."""

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> Any: ...


class SynchronizerFilter:
    """Takes the place of TimeSynchronizer and ApproximateTimeSynchronizer.

    A callback gets one message of each input in the order of `inputs`, then its own arguments; with
    the deadline policy an input that had none gives None. Callbacks run on the thread that brought
    the message or the time, without a lock: with several threads two sets may overtake each other.
    """

    def __init__(
        self,
        inputs: Mapping[str, Filter],
        synchronizer: AnySynchronizer,
        clock: Callable[[], int],
        allow_headerless: bool = False,
    ) -> None:
        """inputs: a filter by name of a sensor. clock: the node's time in nanoseconds.

        allow_headerless: messages without a header are stamped as they come; else they are dropped
        and counted in `headerless`.
        """
        self._synchronizer = synchronizer
        self._names = tuple(inputs)
        self._clock = clock
        self._allow_headerless = allow_headerless
        self._lock = threading.Lock()
        self._callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self.headerless = 0
        self.input_connections = [
            source.registerCallback(partial(self.add, name)) for name, source in inputs.items()
        ]

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:
        """Have `cb(*messages, *args)` called for each set; returns the connection's number."""
        number = len(self._callbacks)
        self._callbacks[number] = cb, args
        return number

    def signalMessage(self, *messages: Any) -> None:
        """Call every callback with the messages of one set."""
        for cb, args in list(self._callbacks.values()):
            cb(*messages, *args)

    def add(self, name: str, msg: Any) -> None:
        """Take one message of an input. Raises MessageError for a stamp that cannot be."""
        now_ns = self._clock()
        stamp = getattr(getattr(msg, "header", None), "stamp", None)
        if stamp is None and not self._allow_headerless:
            self.headerless += 1
            return
        if stamp is None:
            stamp_ns = now_ns
        elif hasattr(stamp, "nanoseconds"):  # rclpy.time.Time
            stamp_ns = stamp.nanoseconds
        else:
            stamp_ns = stamp_ns_of(msg)
        with self._lock:
            sets = self._synchronizer.add(name, stamp_ns, msg, now_ns)
        if sets:
            self._emit(sets)

    def advance(self) -> None:
        """Let time pass; to be called by a timer where sets have a deadline."""
        with self._lock:
            sets = self._synchronizer.advance(self._clock())
        self._emit(sets)

    def _emit(self, sets: list[ReadingSet]) -> None:
        for one in sets:
            readings = one.readings
            self.signalMessage(*(readings[n][1] if n in readings else None for n in self._names))
