"""The policies `approximate` and `exact` give the same sets as the synchronizers of message_filters."""

from __future__ import annotations

import random
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import Modality
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.rig import Sensor
from multimodal_perception.ros.filters import SynchronizerFilter
from multimodal_perception.synchronization.message_filters_policies import (
    ApproximateMatcher,
    ExactMatcher,
    make_synchronizer,
)
from multimodal_perception.synchronization.synchronizer import Synchronizer

MS = 1_000_000
SECOND = 1000 * MS


def sensors(count: int, **more: Any) -> list[Sensor]:
    return [Sensor(f"s{i}", Modality.LIDAR, f"/s{i}", f"s{i}", **more) for i in range(count)]


class Source:
    """Stub with the interface of message_filters.Subscriber."""

    def __init__(self) -> None:
        self.callbacks: list[tuple[Any, tuple[Any, ...]]] = []

    def registerCallback(self, cb: Any, *args: Any) -> int:
        self.callbacks.append((cb, args))
        return len(self.callbacks) - 1

    def signalMessage(self, msg: Any) -> None:
        for cb, args in self.callbacks:
            cb(msg, *args)


class Time:
    """Stub of rclpy.time.Time for the stamp of a header."""

    def __init__(self, seconds: float) -> None:
        self.nanoseconds = round(seconds * SECOND)


def message(seconds: float, data: Any = None) -> Any:
    return SimpleNamespace(header=SimpleNamespace(stamp=Time(seconds)), data=data)


def connect(matcher: Any, count: int, **more: Any) -> tuple[list[Source], list[tuple[Any, ...]]]:
    inputs = {f"s{i}": Source() for i in range(count)}
    collected: list[tuple[Any, ...]] = []
    synchronizer = SynchronizerFilter(inputs, matcher, lambda: 50 * SECOND, **more)
    synchronizer.registerCallback(lambda *messages: collected.append(messages))
    return list(inputs.values()), collected


class BruteForceMatcher:
    """Reference implementation by brute force: all combinations in the order of distances."""

    def __init__(self, count: int, size: int, slop_ns: int | None) -> None:
        self.queues: list[dict[int, int]] = [{} for _ in range(count)]
        self.size, self.slop_ns = size, slop_ns

    def add(self, index: int, stamp: int, number: int) -> tuple[int, ...] | None:
        queue = self.queues[index]
        queue[stamp] = number
        while len(queue) > self.size:
            del queue[min(queue)]
        choices = []
        for i, other in enumerate(self.queues):
            if i == index:
                choices.append([stamp])
            elif self.slop_ns is None:
                choices.append([stamp] if stamp in other else [])
            else:
                near = [t for t in other if abs(t - stamp) <= self.slop_ns]
                choices.append(sorted(near, key=lambda t: abs(t - stamp)))
        for stamps in product(*choices):
            if self.slop_ns is not None and max(stamps) - min(stamps) >= self.slop_ns:
                continue
            if stamp in queue:
                return tuple(q.pop(t) for q, t in zip(self.queues, stamps, strict=True))
        return None


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=80),
    st.integers(2, 4),
    st.integers(1, 6),
    st.sampled_from([None, 0, 1, 3, 8, 40]),
)
def test_sets_match_a_brute_force_search(
    arrivals: list[tuple[int, int]], count: int, size: int, slop: int | None
) -> None:
    reference = BruteForceMatcher(count, size, None if slop is None else slop * 10 * MS)
    matcher = (
        ExactMatcher(sensors(count), size)
        if slop is None
        else ApproximateMatcher(sensors(count), slop * 0.01, size)
    )
    for number, (sensor, stamp) in enumerate(arrivals):
        index, stamp_ns = sensor % count, stamp * 10 * MS
        sets = matcher.add(f"s{index}", stamp_ns, number, number)
        expected = reference.add(index, stamp_ns, number)
        sets_found = [tuple(s.readings[f"s{i}"][1] for i in range(count)) for s in sets]
        assert sets_found == ([] if expected is None else [expected])
        assert all(s.complete for s in sets)
    for name, statistics in matcher.statistics.items():
        dropped = sum(statistics.drops.values())
        assert statistics.received == statistics.used + dropped + matcher.pending()[name]


@pytest.mark.parametrize("policy", ["exact", "approximate"])
def test_pair_is_emitted_when_its_second_message_arrives(policy: str) -> None:
    pair = sensors(2)
    matcher = ExactMatcher(pair, 1) if policy == "exact" else ApproximateMatcher(pair, 0.1, 1)
    (first, second), collected = connect(matcher, 2)
    for t in range(10):
        a, b = message(t, "a"), message(t, "b")
        first.signalMessage(a)
        assert len(collected) == t
        second.signalMessage(b)
        assert collected[-1] == (a, b)


@pytest.mark.parametrize("policy", ["exact", "approximate"])
@pytest.mark.parametrize("count", range(1, 10))
def test_shuffled_sequences_are_matched(policy: str, count: int) -> None:
    rng = random.Random(count)
    pair = sensors(2)
    matcher = (
        ExactMatcher(pair, count) if policy == "exact" else ApproximateMatcher(pair, 0.1, count)
    )
    (first, second), collected = connect(matcher, 2)
    left = [message(t, rng.random()) for t in range(count)]
    right = [message(t, rng.random()) for t in range(count)]
    for msg in rng.sample(left, count):
        first.signalMessage(msg)
    assert not collected
    for msg in rng.sample(right, count):
        second.signalMessage(msg)
    assert sorted((a.data, b.data) for a, b in collected) == sorted(
        (a.data, b.data) for a, b in zip(left, right, strict=True)
    )


def test_messages_without_header_use_arrival_time_or_are_counted() -> None:
    (first, second), collected = connect(
        ApproximateMatcher(sensors(2), 10.0, 5), 2, allow_headerless=True
    )
    first.signalMessage(message(51.0))
    second.signalMessage(SimpleNamespace(data=1))
    assert len(collected) == 1

    inputs = {"s0": Source()}
    strict = SynchronizerFilter(inputs, ExactMatcher(sensors(1)), lambda: 0)
    inputs["s0"].signalMessage(SimpleNamespace(data=1))
    assert strict.headerless == 1


def test_ros_stamp_is_read_and_invalid_stamp_raises_error() -> None:
    (first,), collected = connect(ExactMatcher(sensors(1)), 1)
    stamp = SimpleNamespace(sec=1, nanosec=5)
    first.signalMessage(SimpleNamespace(header=SimpleNamespace(stamp=stamp)))
    assert len(collected) == 1
    stamp.nanosec = 2 * SECOND
    with pytest.raises(MessageError):
        first.signalMessage(SimpleNamespace(header=SimpleNamespace(stamp=stamp)))


def test_callback_receives_its_registered_arguments() -> None:
    inputs = {"s0": Source()}
    synchronizer = SynchronizerFilter(inputs, ExactMatcher(sensors(1)), lambda: 0)
    collected: list[Any] = []
    synchronizer.registerCallback(lambda *given: collected.append(given), "more", 3)
    msg = message(1)
    inputs["s0"].signalMessage(msg)
    assert collected == [(msg, "more", 3)]


def test_deadline_policy_passes_none_for_a_silent_input() -> None:
    now = [0]
    inputs = {"s0": Source(), "s1": Source()}
    synchronizer = SynchronizerFilter(inputs, Synchronizer(sensors(2)), lambda: now[0])
    collected: list[Any] = []
    synchronizer.registerCallback(lambda a, b: collected.append((a.data, b)))
    inputs["s0"].signalMessage(message(0.0, "here"))
    now[0] = SECOND // 2
    synchronizer.advance()
    assert collected == [("here", None)]


def test_callback_can_add_messages() -> None:
    inputs = {"s0": Source()}
    synchronizer = SynchronizerFilter(inputs, ExactMatcher(sensors(1)), lambda: 0)
    received: list[float] = []

    def resend(msg: Any) -> None:
        received.append(msg.data)
        if msg.data < 3:
            inputs["s0"].signalMessage(message(msg.data + 1, msg.data + 1))

    synchronizer.registerCallback(resend)
    inputs["s0"].signalMessage(message(0, 0))
    assert received == [0, 1, 2, 3]


def test_search_cost_stays_bounded_for_many_sensors() -> None:
    """Thirty queues of ten readings without any match: 10^29 combinations."""
    matcher = ApproximateMatcher(sensors(30), 1.0, 10)
    for i in range(29):
        side = -0.9 if i % 2 else 0.9
        for k in range(10):
            stamp_ns = round((10 + side + 0.001 * k) * SECOND)
            assert not matcher.add(f"s{i}", stamp_ns, None, 0)
    assert not matcher.add("s29", 10 * SECOND, None, 0)
    assert matcher.sets == 0


def test_restarted_bag_is_synchronized_again() -> None:
    matcher = ExactMatcher(sensors(2), 3)
    for t in range(100, 110):
        matcher.add("s0", t * SECOND, None, t * SECOND)
    assert not matcher.add("s0", SECOND, "new", SECOND)
    (result,) = matcher.add("s1", SECOND, "new", SECOND)
    assert result.stamp_ns == SECOND
    assert matcher.clock_jumps == 1


def test_make_synchronizer_returns_the_named_policy() -> None:
    rig = sensors(2, tolerance_s=0.03)
    assert isinstance(make_synchronizer(rig), Synchronizer)
    assert isinstance(make_synchronizer(rig, "exact"), ExactMatcher)
    near = make_synchronizer(rig, "approximate")
    near.add("s0", SECOND, None, 0)
    assert near.add("s1", SECOND + 29 * MS, None, 0)
    with pytest.raises(ValueError, match="allowed: deadline, approximate, exact"):
        make_synchronizer(rig, "perhaps")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="queue_size"):
        ExactMatcher(rig, 0)
    with pytest.raises(ValueError, match="slop_s"):
        ApproximateMatcher(rig, -0.1)
