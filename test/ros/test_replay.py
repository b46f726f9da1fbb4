"""Recorded frames into the live node in another process, and what comes back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag import Bag
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.pipeline import build_pipeline
from multimodal_perception.ros import replay


@pytest.fixture(scope="module")
def street() -> SyntheticStreet:
    return SyntheticStreet(frames=3, rings=32, columns=900)


def test_every_frame_of_a_bag_is_answered_as_the_pipeline_alone_would(
    street: SyntheticStreet, tmp_path: Path
) -> None:
    write_bag(street, street.rig, tmp_path / "bag", "mcap")
    bag = Bag(tmp_path / "bag")
    patient = {"deadline_s": "1.0"}  # the messages of a frame may come far apart on a busy machine
    with replay.perception_process(bag.rig, settings=patient) as process:
        played = replay.play(bag, rate_hz=5.0, loops=3, process=process)
        assert process.poll() is None
    assert process.returncode == 0
    result = replay.summarise(played)
    # Every frame is answered, but for those that a newer one overtakes on a machine with other work.
    assert result["sent"] == 9 == played.counts["frames_synchronized"]
    assert "frames_incomplete" not in played.counts
    assert result["received"] == 9 - played.counts.get("frames_dropped_busy", 0) >= 5
    assert sum(result["unanswered_frames"].values()) == 9 - result["received"]
    assert result["latency_ms"]["p50"] > 0
    pipeline = build_pipeline()
    for answer in played.answers:
        truth = pipeline.process(street[answer.index])
        if answer.arrived_s is None:
            continue
        boxes = answer.boxes()
        assert boxes.boxes[:, :6] == pytest.approx(truth.boxes.boxes[:, :6], abs=1e-4)
        assert np.array_equal(boxes.labels, truth.boxes.labels)
        grid = answer.grid()
        assert grid is not None and truth.occupancy is not None
        assert grid.origin == truth.occupancy.origin
        # More than half unknown is published as unknown; at half its rate the LiDAR's health is WARN
        # and it is believed a fifth less.
        known = truth.occupancy.unknown() < 0.35
        assert known.sum() > 1000
        assert (grid.free + grid.occupied > 0)[known].all()


def test_without_a_node_replay_says_so(street: SyntheticStreet) -> None:
    with pytest.raises(UserError, match="no perception node listens"):
        replay.play(street, rate_hz=10.0, timeout_s=0.5)


def test_a_node_that_ends_before_it_listens_is_told_at_once(street: SyntheticStreet) -> None:
    wrong = {"pipeline.detector": "eyes"}
    ended = pytest.raises(UserError, match="perception_node ended")
    with replay.perception_process(street.rig, settings=wrong) as process, ended:
        replay.play(street, rate_hz=10.0, timeout_s=100.0, process=process)
    assert process.returncode == 2


def test_the_users_own_dds_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    replay.prepare_environment()
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "mine.xml"
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    replay.prepare_environment()
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in os.environ
