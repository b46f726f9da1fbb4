"""Subscriptions to the topics of a rig, whose messages are processed in the order of their arrival."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from multimodal_perception.messages import message_types
from multimodal_perception.ros.clock import NodeClock

# If a message has waited for longer than this, others wait, too: all are taken and sorted.
BACKLOG_NS = 5_000_000


class _Waiting(NamedTuple):
    """A message that has been taken. is_reading: whether it is a reading of a sensor."""

    is_reading: bool
    arrival_ns: int
    topic: str
    msg: Any


class TopicSubscriptions:
    """Subscriptions of a node; `receive` gets (topic, message, time of arrival) of each message.

    rclpy executes timers before subscriptions, and takes one message of each topic in turn. On a busy
    computer several messages of each topic wait. They are then taken at once and processed in the order
    in which DDS received them, before a frame is closed without them. Transforms, odometry and
    CameraInfo precede the readings that were taken with them.
    """

    def __init__(
        self,
        node: Any,
        clock: NodeClock,
        receive: Callable[[str, Any, int], None],
        reading_topics: Collection[str],
        deadline_ns: Callable[[], int | None],
        on_lost: Callable[[str, int], None],
    ) -> None:
        """reading_topics: topics of the sensors. deadline_ns: returns that of the open frame, if any.

        on_lost: gets the topic of a sensor and the number of messages that a publisher sent and that
        were not received, from the gaps of its sequence numbers (where rclpy has them).
        """
        self._node = node
        self._clock = clock
        self._receive = receive
        self._reading_topics = frozenset(reading_topics)
        self._deadline_ns = deadline_ns
        self._on_lost = on_lost
        self._last_numbers: dict[str, tuple[Any, int]] = {}  # by topic: publisher, sequence number
        self._subscriptions: list[tuple[str, Any]] = []

    def add(self, topic: str, name: str, qos: QoSProfile, entity: str = "") -> None:
        """Subscribe through message_filters if it is installed, otherwise directly.

        name: message type. entity: name of a second subscription to the same topic in the QoS
        parameters.
        """
        overriding = QoSOverridingOptions.with_default_policies(entity_id=entity or None)
        message_class = message_types.message_class(name)

        def on_message(msg: Any, info: Any) -> None:
            self._on_message(topic, msg, info)

        def on_message_without_info(msg: Any) -> None:
            self._on_message(topic, msg, None)

        callback = on_message if has_message_info() else on_message_without_info
        subscriber_class = _subscriber_class()
        if subscriber_class is None:
            subscription = self._node.create_subscription(
                message_class, topic, callback, qos, qos_overriding_options=overriding
            )
        else:
            subscriber = subscriber_class(
                self._node,
                message_class,
                topic,
                qos_profile=qos,
                qos_overriding_options=overriding,
            )
            subscriber.registerCallback(
                lambda msg: self._on_message(topic, msg, getattr(subscriber, "message_info", None))
            )
            subscription = subscriber.sub
        self._subscriptions.append((topic, subscription))

    def take_waiting(self) -> None:
        """Take all messages that have been received, and process them in the order of their arrival."""
        self._process(self._take())

    def close(self) -> None:
        """Destroy all subscriptions."""
        for _, subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_message(self, topic: str, msg: Any, info: Any) -> None:
        self._count_lost(topic, info)
        arrival_ns = self._clock.arrival_ns(info)
        deadline_ns = self._deadline_ns()
        is_last = deadline_ns is not None and arrival_ns >= deadline_ns
        if not is_last and self._clock.now_ns() - arrival_ns <= BACKLOG_NS:
            self._receive(topic, msg, arrival_ns)
            return
        first = _Waiting(topic in self._reading_topics, arrival_ns, topic, msg)
        self._process([first, *self._take()])

    def _take(self) -> list[_Waiting]:
        waiting = []
        for topic, subscription in self._subscriptions:
            is_reading = topic in self._reading_topics
            # The number of messages taken is limited, so that the loop ends with a fast publisher.
            for _ in range(2 * max(subscription.qos_profile.depth, 1)):
                with subscription.handle:
                    taken = subscription.handle.take_message(
                        subscription.msg_type, subscription.raw
                    )
                if taken is None:
                    break
                msg, info = taken
                self._count_lost(topic, info)
                waiting.append(_Waiting(is_reading, self._clock.arrival_ns(info), topic, msg))
        return waiting

    def _count_lost(self, topic: str, info: Any) -> None:
        if info is None or topic not in self._reading_topics:
            return
        number, publisher = info.get("publication_sequence_number"), info.get("publisher_gid")
        if number is None or publisher is None:
            return
        last_publisher, last = self._last_numbers.get(topic, (None, 0))
        self._last_numbers[topic] = publisher, number
        if publisher == last_publisher and number > last + 1:
            self._on_lost(topic, number - last - 1)

    def _process(self, waiting: list[_Waiting]) -> None:
        for item in sorted(waiting, key=lambda w: w[:2]):
            self._receive(item.topic, item.msg, item.arrival_ns)


def has_message_info() -> bool:
    """Return whether rclpy passes the time of reception to callbacks (since ROS 2 Iron)."""
    return hasattr(Subscription, "CallbackType")


def message_filters() -> Any:
    """The message_filters package, or None if it is not installed."""
    try:
        import message_filters as module
    except ImportError:
        return None
    return module


def _subscriber_class() -> Any:
    """message_filters.Subscriber, extended by the MessageInfo of the present message; or None."""
    filters = message_filters()
    if filters is None:
        return None
    if not has_message_info() or "callback" not in vars(filters.Subscriber):
        return filters.Subscriber
    if len(inspect.signature(filters.Subscriber.callback).parameters) != 2:
        return filters.Subscriber

    base: Any = filters.Subscriber

    class InfoSubscriber(base):
        """Keeps the MessageInfo of the message whose callbacks are running."""

        message_info: Any = None

        def callback(self, msg: Any, info: Any) -> None:
            self.message_info = info
            super().callback(msg)

    return InfoSubscriber
