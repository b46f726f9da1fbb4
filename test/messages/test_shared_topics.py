"""One topic or frame with several users: CameraInfo, odometry, transforms and frame_ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import RosbagsTypes, write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages import encoders
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.rig_topics import shared_frame_notes
from multimodal_perception.synchronization.intake import MessageIntake

TYPES = RosbagsTypes()
INFO = "/rig/camera_info"


def two_cameras(**settings: Any) -> Rig:
    cameras = {
        name: {
            "modality": "camera",
            "topic": f"/rig/{name}",
            "frame_id": f"{name}_optical",
            "camera_info_topic": INFO,
            "extrinsics": {"xyz": [1.0, y, 1.5]},
        }
        for name, y in (("left", 0.2), ("right", -0.2))
    }
    return parse_rig({"name": "stereo", "sensors": cameras, **settings}, "test")


def info_message(focal: float = 40.0, stamp_ns: int = 0) -> Any:
    model = CameraModel(64, 48, np.array([[focal, 0, 31.5], [0, focal, 23.5], [0, 0, 1]]))
    return encoders.camera_info_to_message(TYPES, model, stamp_ns, "left_optical")


def test_both_sensors_of_a_camera_info_topic_get_intrinsics_live() -> None:
    intake = MessageIntake(two_cameras())
    intake.receive(INFO, info_message(), 0)
    focal = {n: c.model.matrix[0, 0] for n, c in intake.assembler.calibrations.items()}
    assert focal == {"left": 40.0, "right": 40.0}
    intake.receive(INFO, info_message(50.0), 1)
    assert {c.model.matrix[0, 0] for c in intake.assembler.calibrations.values()} == {50.0}


def test_invalid_shared_camera_info_is_counted_for_both_sensors() -> None:
    intake = MessageIntake(two_cameras())
    message = replace(info_message(), k=np.zeros(9), p=np.zeros(12))
    intake.receive(INFO, message, 0)
    assert all(sum(intake.drop_counts(name).values()) == 1 for name in ("left", "right"))


def test_both_sensors_of_a_camera_info_topic_get_intrinsics_in_a_bag(tmp_path: Path) -> None:
    street = SyntheticDataset(frames=2, rings=4, columns=16)
    rig = two_cameras()
    frames = []
    for frame in street:
        image, model = frame.cameras["camera"], frame.intrinsics["camera"]
        frames.append(
            SensorFrame(
                frame.stamp_ns,
                cameras={n: replace(image, sensor=n, frame_id=f"{n}_optical") for n in rig.sensors},
                intrinsics=dict.fromkeys(rig.sensors, model),
                base_from_sensor={n: s.base_from_sensor() for n, s in rig.sensors.items()},  # type: ignore[misc]
            )
        )
    write_bag(frames, rig, tmp_path / "bag")
    for given in (rig, None):
        bag = BagDataset(tmp_path / "bag", given)
        assert len(bag) == 2
        for frame in bag:
            assert set(frame.intrinsics) == {"left", "right"}
            assert frame.base_from_sensor["right"][1, 3] == pytest.approx(-0.2)
        assert not +bag.drops


def test_rig_keeps_refusing_one_image_topic_for_two_sensors() -> None:
    camera = {"modality": "camera", "topic": "/a", "frame_id": "a", "camera_info_topic": "/i"}
    with pytest.raises(ConfigurationError, match="already used by"):
        parse_rig({"name": "r", "sensors": {"a": camera, "b": camera}}, "test")


@pytest.mark.parametrize(
    ("settings", "camera", "message"),
    [
        ({"odometry_topic": "/tf"}, {}, "odometry_topic: /tf is already used for the transforms"),
        ({"odometry_topic": "/a"}, {}, "odometry_topic: /a is already used for sensors.a.topic"),
        ({}, {"camera_info_topic": "/a"}, "camera_info_topic: /a is already used for"),
        ({}, {"camera_info_topic": "a"}, "camera_info_topic: /a is already used for"),
        ({}, {"topic": "/tf_static"}, "topic: /tf_static is already used for the transforms"),
    ],
)
def test_one_topic_cannot_have_two_message_types(
    settings: dict[str, Any], camera: dict[str, Any], message: str
) -> None:
    entry = {"modality": "camera", "topic": "/a", "frame_id": "a", "camera_info_topic": "/i"}
    with pytest.raises(ConfigurationError, match=message):
        parse_rig({"name": "r", "sensors": {"a": {**entry, **camera}}, **settings}, "test")


def test_sensors_with_one_frame_and_different_extrinsics_are_reported() -> None:
    rig = two_cameras()
    assert list(shared_frame_notes(rig)) == []
    same = {n: replace(s, frame_id="/optical") for n, s in rig.sensors.items()}
    (note,) = shared_frame_notes(replace(rig, sensors=same))
    assert "left and right have the same frame_id" in note
    equal = {n: replace(s, extrinsics=same["left"].extrinsics) for n, s in same.items()}
    assert list(shared_frame_notes(replace(rig, sensors=equal))) == []


def test_bag_with_one_frame_at_two_poses_is_not_written(tmp_path: Path) -> None:
    street = SyntheticDataset(frames=1, rings=4, columns=16)
    frame = street[0]
    lidar = replace(frame.lidars["lidar"], frame_id="camera_optical")
    with pytest.raises(DatasetError, match="same frame_id 'camera_optical' but different poses"):
        write_bag([replace(frame, lidars={"lidar": lidar})], street.rig, tmp_path / "bag")
    poses_by_sensor = {**frame.base_from_sensor, "lidar": frame.base_from_sensor["camera"]}
    same = replace(frame, lidars={"lidar": lidar}, base_from_sensor=poses_by_sensor)
    assert write_bag([same], street.rig, tmp_path / "bag")["/tf_static"] == 1
    moved = BagDataset(tmp_path / "bag")[0].base_from_sensor["lidar"]
    assert moved == pytest.approx(frame.base_from_sensor["camera"])
    assert poses.is_rigid(moved)
