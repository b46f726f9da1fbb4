"""Labels in bags: choice of the topic, coordinate frame, visibility, points and velocities."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_labels import LABEL_TYPE, VISIBILITY_TOPIC, BagLabels
from multimodal_perception.datasets.bag_writer import RosbagsTypes, write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import LABEL_TOPIC

TYPES = RosbagsTypes()


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticDataset(1)[0]


def bag_labels(frame: SensorFrame, boxes: Boxes3D, visibility: object = None) -> BagLabels:
    labels = BagLabels({"/my/labels": LABEL_TYPE, VISIBILITY_TOPIC: "any"}, Counter())
    labels.add("/my/labels", 7, encoders.boxes_to_message(TYPES, boxes))
    if visibility is not None:
        labels.add(VISIBILITY_TOPIC, 7, SimpleNamespace(data=visibility))
    return labels


def test_only_topics_named_as_labels_are_used() -> None:
    def topic(*names: str) -> str | None:
        return BagLabels(dict.fromkeys(names, LABEL_TYPE), Counter()).topic

    assert topic("/perception/objects") is None
    assert topic("/perception/objects", "/lidar/annotations") == "/lidar/annotations"
    assert topic("/a/labels", LABEL_TOPIC) == LABEL_TOPIC
    assert BagLabels({"/a/labels": "other/msg/Type"}, Counter()).topics == set()


def test_labels_have_points_and_visibility(frame: SensorFrame) -> None:
    truth = frame.labels
    assert truth is not None and truth.num_points is not None
    visibility = np.linspace(0, 1, len(truth)).astype(np.float32)
    labels = bag_labels(frame, truth, visibility).labels_for(frame)
    assert labels is not None and labels.visibility == pytest.approx(visibility)
    assert np.array_equal(labels.num_points, truth.num_points)
    for invalid in (visibility[:-1], np.full(len(truth), np.nan)):
        labels = bag_labels(frame, truth, invalid).labels_for(frame)
        assert labels is not None and labels.visibility is None
    without_lidar = replace(frame, lidars={})
    labels = bag_labels(frame, truth).labels_for(without_lidar)
    assert labels is not None and labels.num_points is None


def test_labels_in_a_lidar_frame_are_transformed_and_in_an_unknown_frame_dropped(
    frame: SensorFrame,
) -> None:
    truth = frame.labels
    assert truth is not None
    base_from_lidar = frame.reference_from_sensor("lidar")
    in_lidar = truth.transformed(np.linalg.inv(base_from_lidar), "lidar")
    labels = bag_labels(frame, in_lidar).labels_for(frame)
    assert labels is not None and labels.frame_id == "base_link"
    assert labels.boxes[:, :6] == pytest.approx(truth.boxes[:, :6], abs=1e-5)
    unknown = bag_labels(frame, replace(truth, frame_id="moon"))
    assert unknown.labels_for(frame) is None
    assert unknown._drops["/my/labels", "unknown_frame"] == 1


def test_labels_belong_to_a_frame_within_50_ms(frame: SensorFrame) -> None:
    assert frame.labels is not None
    for late_ns, assigned in ((50_000_000, True), (50_000_001, False)):
        late = replace(frame.labels, stamp_ns=frame.stamp_ns + late_ns)
        assert (bag_labels(frame, late).labels_for(frame) is not None) is assigned
    assert BagLabels({}, Counter()).labels_for(frame) is None


def test_velocities_come_from_the_previous_and_next_labels(frame: SensorFrame) -> None:
    step_ns = 100_000_000

    def odometry(stamp_ns: int) -> np.ndarray:
        t = (stamp_ns - frame.stamp_ns) / 1e9  # 10 m/s ahead, in a bend
        return poses.from_xyz_rpy((10 * t, 0.0, 0.0), (0.0, 0.0, 0.3 + t))

    def boxes_at(k: int, *tracks: int) -> Boxes3D:
        stamp_ns = frame.stamp_ns + k * step_ns
        # Track 1 stands, track 2 moves at 6 m/s along the y axis of odom, track 3 occurs once.
        centres = {1: (20.0, 5.0, 0.0), 2: (15.0, 0.6 * k, 0.0), 3: (9.0, 9.0, 0.0)}
        in_odom = np.array([centres[t] for t in tracks])
        boxes = np.ones((len(tracks), 7), np.float32)
        boxes[:, :3] = poses.transform_points(poses.inverse(odometry(stamp_ns)), in_odom)
        ones = np.ones(len(tracks))
        ids = np.array(tracks, np.int64)
        scores, classes = ones.astype(np.float32), ones.astype(np.int64)
        return Boxes3D(stamp_ns, "base_link", boxes, scores, classes, track_ids=ids)

    bag = BagLabels({"/my/labels": LABEL_TYPE}, Counter())
    for k, tracks in ((-1, (2, 1)), (0, (1, 2, 3)), (1, (1,))):
        bag.add("/my/labels", k, encoders.boxes_to_message(TYPES, boxes_at(k, *tracks)))
    labels = bag.labels_for(frame, odometry)
    assert labels is not None and labels.velocities is not None
    over_ground = labels.velocities @ odometry(frame.stamp_ns)[:2, :2].T
    np.testing.assert_allclose(over_ground[:2], [(0, 0), (0, 6)], atol=1e-4)
    assert np.isnan(over_ground[2]).all()
    assert bag.labels_for(frame).velocities is None, "no odometry"  # type: ignore[union-attr]


def test_labels_of_a_written_bag_have_point_counts(frame: SensorFrame, tmp_path: Path) -> None:
    write_bag([frame], SyntheticDataset(1).rig, tmp_path / "bag")
    labels = BagDataset(tmp_path / "bag")[0].labels
    assert labels is not None and frame.labels is not None
    assert np.array_equal(labels.num_points, frame.labels.num_points)
