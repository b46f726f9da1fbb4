"""Results of a replay: statistics of all frames in bounded memory, and one result of each frame."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.frame import Boxes3D
from multimodal_perception.latency import LatencySample
from multimodal_perception.messages import decoders
from multimodal_perception.perception import OccupancyGrid

# Results with boxes and grid that are kept; of longer recordings only those of the first frames.
MAX_KEPT_RESULTS = 64


@dataclass
class FrameResult:
    """Results of the node for one published frame. Times of one monotonic clock, in seconds.

    missing: sensors without a reading in the frame that the node processed, "" if it was complete.
    """

    index: int
    published_s: float
    received_s: float | None = None
    objects: Any = None
    occupancy: Any = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    missing: str = ""

    def complete(self) -> bool:
        """Whether boxes, times and, if the node computes one, the grid were received."""
        has_grid = self.occupancy is not None or "occupancy" not in self.stage_ms
        return self.received_s is not None and bool(self.stage_ms) and has_grid

    def latency_ms(self) -> float:
        """Time from the publication of the last input to the arrival of the boxes; NaN without boxes."""
        if self.received_s is None:
            return float("nan")
        return 1e3 * (self.received_s - self.published_s)

    def boxes(self) -> Boxes3D:
        """The received boxes. Raises ValueError if none were received."""
        if self.objects is None:
            raise ValueError("no boxes were received")
        return decoders.boxes_from_message(self.objects)

    def grid(self) -> OccupancyGrid | None:
        """The received occupancy grid, if any."""
        return None if self.occupancy is None else decoders.occupancy_from_message(self.occupancy)


class ReplayStatistics:
    """Counts and latencies of the results of all frames; memory does not grow with their number.

    kept: by frame index, the complete result with the lowest latency; without a complete one, the
    incomplete result with the lowest latency. missing_results: number of missing results by frame index.
    incomplete: number of results of frames in which each sensor was missing.
    """

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.kept: dict[int, FrameResult] = {}
        self.missing_results: Counter[int] = Counter()
        self.incomplete: Counter[str] = Counter()
        self._latency_ms = LatencySample()
        self._overhead_ms = LatencySample()
        self._stage_ms: defaultdict[str, LatencySample] = defaultdict(LatencySample)

    def add(self, result: FrameResult) -> None:
        """Add the result of one published frame, which may be missing."""
        self.sent += 1
        if result.received_s is None:
            self.missing_results[result.index] += 1
            return
        self.received += 1
        latency_ms = result.latency_ms()
        self._latency_ms.add(latency_ms)
        if result.stage_ms:
            until_objects = result.stage_ms.get("until_objects", result.stage_ms["total"])
            self._overhead_ms.add(latency_ms - until_objects)
        for stage, value in result.stage_ms.items():
            self._stage_ms[stage].add(value)
        for sensor in filter(None, result.missing.split(", ")):
            self.incomplete[sensor] += 1
        best = self.kept.get(result.index)
        if best is None and len(self.kept) >= MAX_KEPT_RESULTS:
            return
        if best is None or _order(result) < _order(best):
            self.kept[result.index] = result

    def summary(self) -> dict[str, Any]:
        """Counts, and percentiles of the latencies, as plain values."""
        return {
            "sent": self.sent,
            "received": self.received,
            "latency_ms": self._latency_ms.percentiles(),
            "overhead_ms": self._overhead_ms.percentiles(),
            "stage_ms": {stage: s.percentiles() for stage, s in self._stage_ms.items()},
            "missing_results": {str(i): n for i, n in sorted(self.missing_results.items())},
            "missing_sensors": dict(sorted(self.incomplete.items())),
        }


def _order(result: FrameResult) -> tuple[bool, float]:
    return bool(result.missing), result.latency_ms()


@dataclass(frozen=True)
class ReplayResult:
    """Results of a replay, and the increase of the node's counts during it.

    counts: of the pipeline (frames_dropped_busy, frames_failed, ...) and of sensors
    (`sensor.dropped.reason`), without zeros; empty if the node published none. engines: engine,
    precision and device by network.
    """

    statistics: ReplayStatistics
    counts: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> list[FrameResult]:
        """One result of each frame of the recording, see ReplayStatistics.kept."""
        return [result for _, result in sorted(self.statistics.kept.items())]


def summarise(replayed: ReplayResult) -> dict[str, Any]:
    """Summary of a replay as plain values.

    sent, received: numbers of frames. latency_ms, overhead_ms, stage_ms: p50 and p95. The latency is the
    time from the publication of a frame's last input to the arrival of its boxes; the overhead is the
    latency without the time of the pipeline until it publishes the boxes, i.e. DDS in both directions,
    decoding, synchronization and
    encoding. missing_results: number of missing results by frame index. missing_sensors: number of
    results without a reading of each sensor. node_counts, engines: see ReplayResult.
    """
    return {
        **replayed.statistics.summary(),
        "node_counts": dict(replayed.counts),
        "engines": dict(replayed.engines),
    }
