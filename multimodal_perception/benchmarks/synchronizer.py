"""Cost and reliability of the synchronizers, compared with the Python synchronizers of message_filters.

The source of message_filters is not part of this repository. --baseline names the folder that contains
the package `message_filters`; an installed one is used otherwise. Without it only this package is
measured.
"""

from __future__ import annotations

import gc
import importlib
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from multimodal_perception.benchmarks.report import add_json_argument, check_options, print_report
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor
from multimodal_perception.ros.filters import SynchronizerFilter
from multimodal_perception.synchronization.message_filters_policies import (
    ApproximateMatcher,
    ExactMatcher,
)
from multimodal_perception.synchronization.synchronizer import Synchronizer

COUNTS = (4, 8, 12, 30)
RATES_HZ = (30.0, 20.0, 15.0, 10.0)
DEADLINE_S, SLOP_S, QUEUE_SIZE = 0.05, 0.06, 10
LATENCY_S = (0.003, 0.02)
# Simulated duration of the run of message_filters at 4 sensors; its cost per message does not
# depend on it.
BASELINE_SECONDS = 40.0
REPEATS = 3
AGREEMENT_CASES = 300

Event = tuple[int, str, int]  # arrival time (ns), sensor name, stamp (ns)


class Source:
    """The part of the interface of message_filters.SimpleFilter that a synchronizer uses."""

    def __init__(self) -> None:
        self._callbacks: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:
        self._callbacks.append((cb, args))
        return len(self._callbacks) - 1

    def signalMessage(self, msg: Any) -> None:
        for cb, args in self._callbacks:
            cb(msg, *args)


def make_sensor(index: int) -> Sensor:
    """Sensor 0 is a LiDAR at 10 Hz, 1 a camera, 2 a thermal camera; the others are ultrasonic
    sensors."""
    modality = list(Modality)[[0, 1, 2, 3][min(index, 3)]]
    name = f"s{index}"
    image = modality in (Modality.CAMERA, Modality.THERMAL)
    return Sensor(
        name,
        modality,
        f"/{name}",
        name,
        rate_hz=10.0 if index == 0 else RATES_HZ[(index - 1) % len(RATES_HZ)],
        camera_info_topic=f"/{name}/info" if image else None,
    )


def make_events(sensors: Iterable[Sensor], seconds: float, seed: int = 0) -> list[Event]:
    """Readings of all sensors in order of arrival, with jitter of the stamps and random latency."""
    rng = random.Random(seed)
    events = []
    for sensor in sensors:
        for i in range(int(sensor.rate_hz * seconds)):
            stamp_ns = int(
                (10 + i / sensor.rate_hz + rng.uniform(0, 0.002)) * NANOSECONDS_PER_SECOND
            )
            latency_ns = int(rng.uniform(*LATENCY_S) * NANOSECONDS_PER_SECOND)
            events.append((stamp_ns + latency_ns, sensor.name, stamp_ns))
    return sorted(events)


def make_message(stamp_ns: int) -> Any:
    """A message with a header; the stamp is a builtin_interfaces Time if ROS is installed."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS_PER_SECOND)
    try:
        from builtin_interfaces.msg import Time
    except ImportError:
        stamp: Any = SimpleNamespace(sec=seconds, nanosec=nanoseconds)
    else:
        stamp = Time(sec=seconds, nanosec=nanoseconds)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


class Clock:
    """Simulated time."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def time_filters(
    sensors: list[Sensor], events: list[Event], connect: Callable[[list[Source], Clock], Any]
) -> tuple[float, list[tuple[int, tuple[Any, ...]]]]:
    """Microseconds per message through the filter interface, and the emitted sets with their times."""
    sources = {s.name: Source() for s in sensors}
    clock = Clock()
    emitted: list[tuple[int, tuple[Any, ...]]] = []
    synchronizer = connect(list(sources.values()), clock)
    synchronizer.registerCallback(lambda *messages: emitted.append((clock.now_ns, messages)))
    work = [
        (arrival, sources[name].signalMessage, make_message(stamp))
        for arrival, name, stamp in events
    ]
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    for arrival_ns, signal, msg in work:
        clock.now_ns = arrival_ns
        signal(msg)
    elapsed = time.perf_counter() - start
    gc.enable()
    return 1e6 * elapsed / len(events), emitted


def play_with_timer(
    sensors: list[Sensor], events: list[Event], connect: Callable[[list[Source], Clock], Any]
) -> list[tuple[int, tuple[Any, ...]]]:
    """Emitted sets with their times, when `advance` is called by a 1 ms timer as in a node."""
    sources = {s.name: Source() for s in sensors}
    clock = Clock()
    emitted: list[tuple[int, tuple[Any, ...]]] = []
    synchronizer = connect(list(sources.values()), clock)
    synchronizer.registerCallback(lambda *messages: emitted.append((clock.now_ns, messages)))
    advance = getattr(synchronizer, "advance", lambda: None)
    clock.now_ns = events[0][0]
    for arrival_ns, name, stamp_ns in events:
        while clock.now_ns + NANOSECONDS_PER_SECOND // 1000 < arrival_ns:
            clock.now_ns += NANOSECONDS_PER_SECOND // 1000
            advance()
        clock.now_ns = arrival_ns
        sources[name].signalMessage(make_message(stamp_ns))
    return emitted


def connect_ours(sensors: list[Sensor]) -> Callable[[list[Source], Clock], Any]:
    """A function that connects this package's synchronizer to sources."""

    def connect(sources: list[Source], clock: Clock) -> Any:
        inputs = dict(zip((s.name for s in sensors), sources, strict=True))
        return SynchronizerFilter(inputs, Synchronizer(sensors, DEADLINE_S), clock)

    return connect


def connect_baseline(baseline: ModuleType) -> Callable[[list[Source], Clock], Any]:
    """A function that connects message_filters' ApproximateTimeSynchronizer to sources."""

    def connect(sources: list[Source], clock: Clock) -> Any:
        return baseline.ApproximateTimeSynchronizer(sources, QUEUE_SIZE, SLOP_S)

    return connect


def punctual_fraction(emitted: list[tuple[int, tuple[Any, ...]]], seconds: float) -> float:
    """Fraction of the LiDAR instants (ten per second without the last) with a set within the deadline.

    The budget is the deadline plus the maximum latency plus 1 ms.
    """
    budget_ns = int((DEADLINE_S + LATENCY_S[1] + 0.001) * NANOSECONDS_PER_SECOND)
    on_time = set()
    for at_ns, messages in emitted:
        stamp = next(m for m in messages if m is not None).header.stamp
        stamp_ns = stamp.sec * NANOSECONDS_PER_SECOND + stamp.nanosec
        if at_ns - stamp_ns <= budget_ns:
            on_time.add(round((stamp_ns / NANOSECONDS_PER_SECOND - 10) * 10))
    instants = int(seconds * 10) - 1
    return len(on_time & set(range(instants))) / instants


def measure_agreement(baseline: ModuleType) -> dict[str, dict[str, int]]:
    """Number of random streams for which our policies and message_filters emit identical sets."""
    identical = {"approximate": 0, "exact": 0}
    for seed in range(AGREEMENT_CASES):
        rng = random.Random(seed)
        sensors = [make_sensor(i) for i in range(rng.choice((2, 3, 4)))]
        size, slop_s = rng.randint(1, 8), rng.choice((0.0, 0.01, 0.05, 0.2))
        step = rng.choice((10, 25))
        events = [
            (
                i,
                rng.choice(sensors).name,
                rng.randint(0, 40) * step * NANOSECONDS_PER_SECOND // 1000,
            )
            for i in range(120)
        ]
        pairs: dict[str, tuple[Any, Callable[[list[Source]], Any]]] = {
            "approximate": (
                ApproximateMatcher(sensors, slop_s, size),
                lambda f, n=size, s=slop_s: baseline.ApproximateTimeSynchronizer(f, n, s),  # type: ignore[misc]
            ),
            "exact": (
                ExactMatcher(sensors, size),
                lambda f, n=size: baseline.TimeSynchronizer(f, n),  # type: ignore[misc]
            ),
        }
        for policy, (matcher, make) in pairs.items():

            def connect_matcher(
                sources: list[Source], clock: Clock, m: Any = matcher, s: Any = sensors
            ) -> Any:
                return SynchronizerFilter(
                    dict(zip((x.name for x in s), sources, strict=True)), m, clock
                )

            def connect_filter(sources: list[Source], clock: Clock, make: Any = make) -> Any:
                return make(sources)

            outputs = [
                [
                    (at, tuple((m.header.stamp.sec, m.header.stamp.nanosec) for m in messages))
                    for at, messages in time_filters(sensors, events, c)[1]
                ]
                for c in (connect_matcher, connect_filter)
            ]
            identical[policy] += outputs[0] == outputs[1]
    return {p: {"cases": AGREEMENT_CASES, "identical": n} for p, n in identical.items()}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        type=Path,
        help="folder that contains the package message_filters (default: the installed one, if any)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="simulated duration of the message streams (default: 400 s divided by the sensor count)",
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    print_report("sync", measure(load_baseline(args.baseline), args.seconds), args.json)
    return 0


def measure(baseline: ModuleType | None, seconds: float | None) -> dict[str, Any]:
    """Time per message by sensor count, and the punctual frames while one sensor is silent.

    Keys: us_per_message {ours, baseline: by count}, us_per_message_silent_sensor,
    frames_with_silent_sensor {ours, baseline}, cost_30_over_4_sensors, times_faster,
    agreement_with_baseline.
    """
    us: dict[str, dict[str, float]] = {"ours": {}, "baseline": {}}
    for count in COUNTS:
        sensors = [make_sensor(i) for i in range(count)]
        # By default the number of messages does not depend on the number of sensors.
        events = make_events(sensors, seconds or 100.0 * 4 / count)
        short = [
            e for e in events if e[0] < (10 + BASELINE_SECONDS * 4 / count) * NANOSECONDS_PER_SECOND
        ]
        best: dict[str, list[float]] = {"ours": [], "baseline": []}
        for _ in range(REPEATS):
            best["ours"].append(time_filters(sensors, events, connect_ours(sensors))[0])
            if baseline is not None:
                best["baseline"].append(time_filters(sensors, short, connect_baseline(baseline))[0])
        for side, values in best.items():
            if values:
                us[side][str(count)] = min(values)
    sensors = [make_sensor(i) for i in range(8)]
    events = [e for e in make_events(sensors, 30.0) if e[1] != "s4"]
    sides = {"ours": connect_ours(sensors)}
    if baseline is not None:
        sides["baseline"] = connect_baseline(baseline)
    result: dict[str, Any] = {
        "us_per_message": us,
        "us_per_message_silent_sensor": {
            side: time_filters(sensors, events, connect)[0] for side, connect in sides.items()
        },
        "frames_with_silent_sensor": {
            side: punctual_fraction(play_with_timer(sensors, events, connect), 30.0)
            for side, connect in sides.items()
        },
        "cost_30_over_4_sensors": us["ours"]["30"] / us["ours"]["4"],
    }
    if baseline is not None:
        result["times_faster"] = {n: us["baseline"][n] / us["ours"][n] for n in us["baseline"]}
        result["agreement_with_baseline"] = measure_agreement(baseline)
    return result


def load_baseline(path: Path | None) -> ModuleType | None:
    """Import message_filters from a folder, or the installed one; None if there is none.

    Raises UserError if the folder does not contain it.
    """
    if path is not None:
        if not (path / "message_filters" / "__init__.py").is_file():
            raise UserError(f"--baseline {path}: no message_filters package in it")
        sys.path.insert(0, str(path))
    try:
        return importlib.import_module("message_filters")
    except ImportError as error:
        if path is not None:
            raise UserError(f"--baseline {path}: {error}") from error
        return None
