"""Replay of recorded frames into the node in another process, and its results."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.ros import node_process, replay
from multimodal_perception.ros.replay_statistics import (
    MAX_KEPT_RESULTS,
    FrameResult,
    ReplayStatistics,
    summarise,
)
from test.ros.conftest import START_S


@pytest.fixture(scope="module")
def street() -> SyntheticDataset:
    return SyntheticDataset(frames=3, rings=32, columns=900)


@pytest.mark.live
@pytest.mark.serial  # no message may arrive late
def test_results_over_dds_equal_those_of_the_pipeline(
    street: SyntheticDataset, tmp_path: Path
) -> None:
    write_bag(street, street.rig, tmp_path / "bag", "mcap")
    bag = BagDataset(tmp_path / "bag")
    # On a busy machine the messages of a frame arrive late; `auto` depends on measured times.
    settings = {"deadline_s": "5.0", "pipeline.detector": "geometric"}
    with node_process.perception_process(bag.rig, settings=settings) as process:
        replayed = replay.play(bag, rate_hz=2.0, loops=2, timeout_s=START_S, process=process)
        assert process.poll() is None
    assert process.returncode == 0
    result = summarise(replayed)
    # On a busy machine, frames are dropped when a newer one arrives.
    assert result["sent"] == 6 == replayed.counts["frames_synchronized"]
    assert "frames_incomplete" not in replayed.counts
    assert result["received"] == 6 - replayed.counts.get("frames_dropped_busy", 0) >= 4
    assert sum(result["missing_results"].values()) == 6 - result["received"]
    assert result["latency_ms"]["p50"] > 0
    pipeline = build_pipeline(PipelineConfig(detector="geometric"))
    assert [r.index for r in replayed.results] == [0, 1, 2]
    for received in replayed.results:
        truth = pipeline.process(street[received.index])
        boxes = received.boxes()
        assert boxes.boxes[:, :6] == pytest.approx(truth.boxes.boxes[:, :6], abs=1e-4)
        assert np.array_equal(boxes.labels, truth.boxes.labels)
        grid = received.grid()
        assert grid is not None and truth.occupancy is not None
        assert grid.origin == truth.occupancy.origin
        # Cells with more than half unknown mass are published as unknown. Below its rate the LiDAR's
        # health is WARN, which reduces its masses by a fifth.
        known = truth.occupancy.unknown() < 0.35
        assert known.sum() > 1000
        assert (grid.free + grid.occupied > 0)[known].all()


def test_replay_without_a_node_is_an_error(street: SyntheticDataset) -> None:
    with pytest.raises(UserError, match="no perception node subscribed"):
        replay.play(street, rate_hz=10.0, timeout_s=0.5)


@pytest.mark.live
def test_a_node_that_ends_before_it_subscribes_is_an_error_at_once(
    street: SyntheticDataset,
) -> None:
    wrong = {"pipeline.detector": "unknown"}
    ended = pytest.raises(UserError, match="perception_node ended")
    with node_process.perception_process(street.rig, settings=wrong) as process, ended:
        replay.play(street, rate_hz=10.0, timeout_s=100.0, process=process)
    assert process.returncode == 2


def test_a_dds_profile_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    node_process.prepare_environment()
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "mine.xml"
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    node_process.prepare_environment()
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in os.environ


class _WithoutCamera(SyntheticDataset):
    """The same street and rig, but the camera never publishes."""

    def __getitem__(self, index: int) -> SensorFrame:
        return replace(super().__getitem__(index), cameras={})


@pytest.mark.live
def test_result_names_the_sensors_that_are_missing_in_its_frame() -> None:
    street = _WithoutCamera(frames=2, rings=32, columns=900)
    with node_process.perception_process(street.rig) as process:
        replayed = replay.play(street, rate_hz=5.0, loops=2, timeout_s=START_S, process=process)
    assert {r.missing for r in replayed.results} == {"camera"}
    result = summarise(replayed)
    assert result["missing_sensors"] == {"camera": result["received"]}


def test_memory_of_the_results_does_not_grow_with_the_length_of_the_replay() -> None:
    statistics = ReplayStatistics()

    def play(first: int, count: int) -> None:
        for i in range(first, first + count):
            grid = bytearray(10_000)
            done_s = None if i % 10 == 9 else i + 0.05 + 0.01 * (i % 7)
            statistics.add(FrameResult(i % 500, i, done_s, [], grid, {"total": 40.0}))

    tracemalloc.start()
    play(0, 20_000)
    before = tracemalloc.get_traced_memory()[0]
    play(20_000, 40_000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert growth < 100_000
    summary = statistics.summary()
    assert (summary["sent"], summary["received"]) == (60_000, 54_000)
    assert sum(summary["missing_results"].values()) == 6_000
    assert summary["latency_ms"]["p50"] == pytest.approx(80.0, abs=1.0)
    assert summary["latency_ms"]["p95"] == pytest.approx(110.0, abs=1.0)
    assert summary["overhead_ms"]["p50"] == pytest.approx(40.0, abs=1.0)
    assert len(statistics.kept) == MAX_KEPT_RESULTS


def test_complete_results_are_kept_before_fast_incomplete_ones() -> None:
    statistics = ReplayStatistics()
    for missing, latency_s in (("lidar", 0.01), ("", 0.2), ("", 0.1), ("lidar, camera", 0.02)):
        statistics.add(FrameResult(0, 5.0, 5.0 + latency_s, missing=missing))
    kept = statistics.kept[0]
    assert (kept.missing, kept.latency_ms()) == ("", pytest.approx(100.0))
    assert statistics.summary()["missing_sensors"] == {"camera": 1, "lidar": 2}
