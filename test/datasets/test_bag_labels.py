"""Labels in bags: which topic, in which frame of reference, and what else is known of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from multimodal_perception.datasets.bag import Bag
from multimodal_perception.datasets.bag_labels import LABEL_TYPE, VISIBILITY_TOPIC, BagLabels
from multimodal_perception.datasets.bag_writer import RosbagsTypes, write_bag
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import LABEL_TOPIC

TYPES = RosbagsTypes()


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticStreet(1)[0]


def labels_of(frame: SensorFrame, boxes: Boxes3D, sight: object = None) -> BagLabels:
    told = BagLabels({"/my/labels": LABEL_TYPE, VISIBILITY_TOPIC: "any"}, Counter())
    told.remember("/my/labels", 7, encoders.boxes_to_message(TYPES, boxes))
    if sight is not None:
        told.remember(VISIBILITY_TOPIC, 7, SimpleNamespace(data=sight))
    return told


def test_only_topics_of_truth_are_labels() -> None:
    def topic(*names: str) -> str | None:
        return BagLabels(dict.fromkeys(names, LABEL_TYPE), Counter()).topic

    assert topic("/perception/objects") is None
    assert topic("/perception/objects", "/lidar/annotations") == "/lidar/annotations"
    assert topic("/a/labels", LABEL_TOPIC) == LABEL_TOPIC
    assert BagLabels({"/a/labels": "other/msg/Type"}, Counter()).topics == set()


def test_labels_come_with_points_and_visibility(frame: SensorFrame) -> None:
    truth = frame.labels
    assert truth is not None and truth.num_points is not None
    sight = np.linspace(0, 1, len(truth)).astype(np.float32)
    told = labels_of(frame, truth, sight).of(frame)
    assert told is not None and told.visibility == pytest.approx(sight)
    assert np.array_equal(told.num_points, truth.num_points)
    for wrong in (sight[:-1], np.full(len(truth), np.nan)):
        told = labels_of(frame, truth, wrong).of(frame)
        assert told is not None and told.visibility is None
    blind = replace(frame, lidars={})
    told = labels_of(frame, truth).of(blind)
    assert told is not None and told.num_points is None


def test_labels_in_the_lidars_frame_are_moved_and_in_unknown_ones_dropped(
    frame: SensorFrame,
) -> None:
    truth = frame.labels
    assert truth is not None
    base_from_lidar = frame.reference_from_sensor("lidar")
    in_lidar = truth.transformed(np.linalg.inv(base_from_lidar), "lidar")
    told = labels_of(frame, in_lidar).of(frame)
    assert told is not None and told.frame_id == "base_link"
    assert told.boxes[:, :6] == pytest.approx(truth.boxes[:, :6], abs=1e-5)
    lost = labels_of(frame, replace(truth, frame_id="moon"))
    assert lost.of(frame) is None and lost._drops["/my/labels", "unknown_frame"] == 1


def test_labels_of_another_time_are_not_the_frames(frame: SensorFrame) -> None:
    assert frame.labels is not None
    for late_ns, found in ((50_000_000, True), (50_000_001, False)):
        late = replace(frame.labels, stamp_ns=frame.stamp_ns + late_ns)
        assert (labels_of(frame, late).of(frame) is not None) is found
    assert BagLabels({}, Counter()).of(frame) is None


def test_labels_with_ids_get_velocities_from_those_before_and_after(frame: SensorFrame) -> None:
    step_ns = 100_000_000

    def odometry(stamp_ns: int) -> np.ndarray:
        t = (stamp_ns - frame.stamp_ns) / 1e9  # 10 m/s ahead, in a bend
        return poses.from_xyz_rpy((10 * t, 0.0, 0.0), (0.0, 0.0, 0.3 + t))

    def labels(k: int, *tracks: int) -> Boxes3D:
        stamp_ns = frame.stamp_ns + k * step_ns
        # Track 1 stands, 2 goes 6 m/s to the left of odom, 3 is there once.
        places = {1: (20.0, 5.0, 0.0), 2: (15.0, 0.6 * k, 0.0), 3: (9.0, 9.0, 0.0)}
        there = np.array([places[t] for t in tracks])
        boxes = np.ones((len(tracks), 7), np.float32)
        boxes[:, :3] = poses.transform_points(poses.inverse(odometry(stamp_ns)), there)
        one = np.ones(len(tracks))
        ids = np.array(tracks, np.int64)
        scores, kinds = one.astype(np.float32), one.astype(np.int64)
        return Boxes3D(stamp_ns, "base_link", boxes, scores, kinds, track_ids=ids)

    told = BagLabels({"/my/labels": LABEL_TYPE}, Counter())
    for k, tracks in ((-1, (2, 1)), (0, (1, 2, 3)), (1, (1,))):
        told.remember("/my/labels", k, encoders.boxes_to_message(TYPES, labels(k, *tracks)))
    found = told.of(frame, odometry)
    assert found is not None and found.velocities is not None
    over_ground = found.velocities @ odometry(frame.stamp_ns)[:2, :2].T
    np.testing.assert_allclose(over_ground[:2], [(0, 0), (0, 6)], atol=1e-4)
    assert np.isnan(over_ground[2]).all()
    assert told.of(frame).velocities is None, "without odometry"  # type: ignore[union-attr]


def test_a_written_bag_tells_the_points_of_its_labels(frame: SensorFrame, tmp_path: Path) -> None:
    write_bag([frame], SyntheticStreet(1).rig, tmp_path / "bag")
    told = Bag(tmp_path / "bag")[0].labels
    assert told is not None and frame.labels is not None
    assert np.array_equal(told.num_points, frame.labels.num_points)
