"""The interface of message_filters' synchronizers, implemented with this package's synchronizers.

Works with message_filters.Subscriber and any other object with registerCallback. Imports no ROS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.synchronization.message_filters_policies import AnySynchronizer
from multimodal_perception.synchronization.reading_set import ReadingSet


class Filter(Protocol):
    """The part of message_filters.SimpleFilter that is used."""

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> Any: ...


class SynchronizerFilter:
    """Replacement for TimeSynchronizer and ApproximateTimeSynchronizer.

    A callback gets one message of each input in the order of `inputs`, then its own arguments. With the
    deadline policy it gets None for an input without a message. Callbacks run on the thread that called
    `add` or `advance`, without a lock: with several threads the order of sets is not guaranteed.
    """

    def __init__(
        self,
        inputs: Mapping[str, Filter],
        synchronizer: AnySynchronizer,
        clock: Callable[[], int],
        allow_headerless: bool = False,
    ) -> None:
        """inputs: filter by sensor name. clock: returns the node's time in nanoseconds.

        allow_headerless: use the time of arrival for messages without a header. Otherwise they are
        dropped and counted in `headerless`.
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
        """Call `cb(*messages, *args)` for each set; returns the number of the connection."""
        number = len(self._callbacks)
        self._callbacks[number] = cb, args
        return number

    def signalMessage(self, *messages: Any) -> None:
        """Call every callback with the messages of one set."""
        for cb, args in list(self._callbacks.values()):
            cb(*messages, *args)

    def add(self, name: str, msg: Any) -> None:
        """Add one message of an input. Raises MessageError for an invalid stamp."""
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
        """Emit sets whose deadline has passed. Call it from a timer with the deadline policy."""
        with self._lock:
            sets = self._synchronizer.advance(self._clock())
        self._emit(sets)

    def _emit(self, sets: list[ReadingSet]) -> None:
        for reading_set in sets:
            readings = reading_set.readings
            self.signalMessage(*(readings[n][1] if n in readings else None for n in self._names))
