"""Bags: what is written comes back, whoever reads it; broken bags say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from multimodal_perception.datasets.bag import Bag
from multimodal_perception.datasets.bag_writer import RosbagsTypes, typestore, write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.frame import SensorFrame, ThermalImage, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.rig import Rig, load_rig, parse_rig


@pytest.fixture(scope="module")
def street() -> SyntheticStreet:
    return SyntheticStreet(frames=4, rings=16, columns=300)


@pytest.fixture(scope="module", params=["sqlite3", "mcap"])
def bag_path(request, street, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("bags") / request.param
    write_bag(street, street.rig, path, request.param)
    return path


def assert_same(ours: SensorFrame, truth: SensorFrame) -> None:
    assert ours.stamp_ns == truth.stamp_ns
    assert ours.present == truth.present
    for name in truth.lidars:
        assert np.array_equal(ours.lidars[name].points, truth.lidars[name].points)
        assert np.array_equal(ours.lidars[name].rings, truth.lidars[name].rings)
    for name in truth.cameras:
        assert np.array_equal(ours.cameras[name].rgb(), truth.cameras[name].rgb())
        assert ours.intrinsics[name].matrix == pytest.approx(truth.intrinsics[name].matrix)
    for name, pose in truth.base_from_sensor.items():
        assert ours.base_from_sensor[name] == pytest.approx(pose, abs=1e-9)
    assert ours.labels is not None and truth.labels is not None
    assert ours.labels.boxes[:, :6] == pytest.approx(truth.labels.boxes[:, :6], abs=1e-5)
    assert np.array_equal(ours.labels.labels, truth.labels.labels)


@pytest.mark.parametrize("with_rig", [True, False])
def test_frames_come_back_as_they_were(
    bag_path: Path, street: SyntheticStreet, with_rig: bool
) -> None:
    bag = Bag(bag_path, street.rig if with_rig else None)
    assert len(bag) == len(street)
    assert set(bag.rig.sensors) == {"lidar", "camera"}
    for ours, truth in zip(bag, street, strict=True):
        assert_same(ours, truth)
    assert_same(bag[-1], street[3])  # in any order
    assert_same(bag[0], street[0])
    assert not +bag.drops


def test_any_reader_finds_standard_messages(bag_path: Path) -> None:
    with AnyReader([bag_path], default_typestore=typestore()) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
    assert types == {
        "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
        "/camera/image_raw": "sensor_msgs/msg/Image",
        "/ground_truth/objects": "vision_msgs/msg/Detection3DArray",
        "/lidar/points": "sensor_msgs/msg/PointCloud2",
        "/tf_static": "tf2_msgs/msg/TFMessage",
    }
    assert durability["/tf_static"].name == "TRANSIENT_LOCAL"


def test_rclpy_reads_what_was_written(bag_path: Path) -> None:
    from rclpy.serialization import deserialize_message

    with AnyReader([bag_path], default_typestore=typestore()) as reader:
        for connection, _, raw in reader.messages():
            message = deserialize_message(
                bytes(raw), message_types.message_class(connection.msgtype)
            )
            if connection.topic == "/ground_truth/objects":
                boxes = decoders.boxes_from_message(message)
                assert len(boxes) > 5
            if connection.topic == "/lidar/points":
                assert message.point_step * message.width == len(message.data)


def test_extrinsics_that_change_hold_from_then_on(street: SyntheticStreet, tmp_path: Path) -> None:
    moved = poses.from_xyz_rpy((0.0, 0.5, 2.0))
    frames = [
        street[0],
        replace(street[1], base_from_sensor={**street[1].base_from_sensor, "lidar": moved}),
    ]
    write_bag(frames, street.rig, tmp_path / "bag")
    bag = Bag(tmp_path / "bag")
    assert bag[1].base_from_sensor["lidar"] == pytest.approx(moved)
    assert bag[0].base_from_sensor["lidar"] == pytest.approx(street[0].base_from_sensor["lidar"])


def test_all_four_modalities_pass_through_a_bag(street: SyntheticStreet, tmp_path: Path) -> None:
    sensors = {
        "lidar": {"modality": "lidar", "topic": "/lidar/points", "frame_id": "lidar"},
        "thermal": {
            "modality": "thermal",
            "topic": "/thermal/image_raw",
            "camera_info_topic": "/thermal/camera_info",
            "frame_id": "thermal_optical",
        },
        "rear": {"modality": "ultrasonic", "topic": "/rear/range", "frame_id": "rear"},
    }
    rig = parse_rig({"name": "mixed", "sensors": sensors}, "test")
    base = street[0]
    counts = np.arange(400 * 960, dtype=np.uint16).reshape(400, 960)
    frame = SensorFrame(
        base.stamp_ns,
        lidars=base.lidars,
        thermals={"thermal": ThermalImage("thermal", base.stamp_ns, "thermal_optical", counts)},
        ultrasonics={
            "rear": UltrasonicReading("rear", base.stamp_ns, "rear", float("inf"), 0.2, 4.0, 0.5)
        },
        base_from_sensor={
            "lidar": base.base_from_sensor["lidar"],
            "thermal": base.base_from_sensor["camera"],
            "rear": poses.from_xyz_rpy((-1.0, 0.0, 0.4), (0.0, 0.0, np.pi)),
        },
        intrinsics={"thermal": base.intrinsics["camera"]},
    )
    write_bag([frame], rig, tmp_path / "bag", "mcap")
    ours = Bag(tmp_path / "bag")[0]
    assert ours.present == {"lidar", "thermal", "rear"}
    assert np.array_equal(ours.thermals["thermal"].pixels, counts)
    assert ours.ultrasonics["rear"].range_m == float("inf")


def test_a_bag_is_never_overwritten(street: SyntheticStreet, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        write_bag(street, street.rig, tmp_path / "bag")


def test_an_unfinished_bag_is_removed(street: SyntheticStreet, tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield street[0]
        raise DatasetError("the source broke")

    with pytest.raises(DatasetError, match="the source broke"):
        write_bag(broken(), street.rig, tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_a_truncated_bag_is_an_error_not_a_crash(bag_path: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "bag"
    shutil.copytree(bag_path, copy)
    data = next(p for p in copy.iterdir() if p.suffix in (".db3", ".mcap"))
    whole = data.read_bytes()
    for keep in (0, 7, 100, len(whole) // 2, len(whole) - 9):
        data.write_bytes(whole[:keep])
        try:
            frames = list(Bag(copy))
        except DatasetError as error:
            assert str(copy) in str(error)
        else:
            assert len(frames) <= 4


@pytest.mark.parametrize("text", ["", "rosbag2_bagfile_information: 3", "{", "\x00\xff"])
def test_broken_metadata_is_an_error(bag_path: Path, tmp_path: Path, text: str) -> None:
    import shutil

    copy = tmp_path / "bag"
    shutil.copytree(bag_path, copy)
    (copy / "metadata.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError):
        Bag(copy)


def test_a_bag_without_the_rigs_topics_says_so(bag_path: Path) -> None:
    other = {
        "name": "other",
        "sensors": {"l": {"modality": "lidar", "topic": "/x", "frame_id": "l"}},
    }
    with pytest.raises(DatasetError, match="no usable message on /x"):
        Bag(bag_path, parse_rig(other, "test"))


def test_missing_transforms_are_counted(street: SyntheticStreet, tmp_path: Path) -> None:
    frame = replace(street[0], base_from_sensor=street[0].base_from_sensor)
    write_bag([frame], street.rig, tmp_path / "bag")
    rig = load_rig_with_other_base(street.rig)
    bag = Bag(tmp_path / "bag", rig)
    assert bag[0].present == frozenset()
    assert bag.drops["lidar", "no_transform_unknown_frame"] == 1


def load_rig_with_other_base(rig: Rig) -> Rig:
    return replace(rig, base_frame="footprint")


def test_encoders_fill_every_field_for_rosbags_too(street: SyntheticStreet) -> None:
    types = RosbagsTypes()
    frame = street[0]
    assert frame.labels is not None
    for message, name in (
        (encoders.boxes_to_message(types, frame.labels), "vision_msgs/msg/Detection3DArray"),
        (encoders.sweep_to_message(types, frame.lidars["lidar"]), "sensor_msgs/msg/PointCloud2"),
    ):
        raw = types.store.serialize_cdr(message, name)
        assert types.store.deserialize_cdr(raw, name).header == message.header


def test_shipped_rigs_load() -> None:
    from multimodal_perception.resources import share_path

    rigs = sorted(share_path("config", "rigs").glob("*.yaml"))
    assert {p.stem for p in rigs} >= {"kitti", "synthetic"}
    for path in rigs:
        assert load_rig(path).sensors
