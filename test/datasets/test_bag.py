"""Bags: written frames are read back unchanged; invalid bags raise clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import RosbagsTypes, typestore, write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame, ThermalImage, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.rig import Rig, load_rig, parse_rig


@pytest.fixture(scope="module")
def street() -> SyntheticDataset:
    return SyntheticDataset(frames=4, rings=16, columns=300)


@pytest.fixture(scope="module", params=["sqlite3", "mcap"])
def bag_path(request, street, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("bags") / request.param
    write_bag(street, street.rig, path, request.param)
    return path


def assert_same(loaded: SensorFrame, written: SensorFrame) -> None:
    """Compare a frame read from a bag with the frame that was written."""
    assert loaded.stamp_ns == written.stamp_ns
    assert loaded.present == written.present
    for name in written.lidars:
        assert np.array_equal(loaded.lidars[name].points, written.lidars[name].points)
        assert np.array_equal(loaded.lidars[name].rings, written.lidars[name].rings)
    for name in written.cameras:
        assert np.array_equal(loaded.cameras[name].rgb(), written.cameras[name].rgb())
        assert loaded.intrinsics[name].matrix == pytest.approx(written.intrinsics[name].matrix)
    for name, pose in written.base_from_sensor.items():
        assert loaded.base_from_sensor[name] == pytest.approx(pose, abs=1e-9)
    assert loaded.labels is not None and written.labels is not None
    assert loaded.labels.boxes[:, :6] == pytest.approx(written.labels.boxes[:, :6], abs=1e-5)
    assert np.array_equal(loaded.labels.labels, written.labels.labels)


@pytest.mark.parametrize("with_rig", [True, False])
def test_written_frames_are_read_back_unchanged(
    bag_path: Path, street: SyntheticDataset, with_rig: bool
) -> None:
    bag = BagDataset(bag_path, street.rig if with_rig else None)
    assert len(bag) == len(street)
    assert set(bag.rig.sensors) == {"lidar", "camera"}
    for loaded, written in zip(bag, street, strict=True):
        assert_same(loaded, written)
    assert_same(bag[-1], street[3])  # in any order
    assert_same(bag[0], street[0])
    assert not +bag.drops


def test_bag_contains_standard_messages_only(bag_path: Path) -> None:
    with AnyReader([bag_path], default_typestore=typestore()) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
    assert types == {
        "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
        "/camera/image_raw": "sensor_msgs/msg/Image",
        "/ground_truth/num_points": "std_msgs/msg/Int32MultiArray",
        "/ground_truth/objects": "vision_msgs/msg/Detection3DArray",
        "/lidar/points": "sensor_msgs/msg/PointCloud2",
        "/tf_static": "tf2_msgs/msg/TFMessage",
    }
    assert durability["/tf_static"].name == "TRANSIENT_LOCAL"


def test_rclpy_deserialises_all_written_messages(bag_path: Path) -> None:
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


def test_changed_extrinsics_apply_from_their_record_time(
    street: SyntheticDataset, tmp_path: Path
) -> None:
    moved = poses.from_xyz_rpy((0.0, 0.5, 2.0))
    frames = [
        street[0],
        replace(street[1], base_from_sensor={**street[1].base_from_sensor, "lidar": moved}),
    ]
    write_bag(frames, street.rig, tmp_path / "bag")
    bag = BagDataset(tmp_path / "bag")
    assert bag[1].base_from_sensor["lidar"] == pytest.approx(moved)
    assert bag[0].base_from_sensor["lidar"] == pytest.approx(street[0].base_from_sensor["lidar"])


def test_all_four_modalities_pass_through_a_bag(street: SyntheticDataset, tmp_path: Path) -> None:
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
    loaded = BagDataset(tmp_path / "bag")[0]
    assert loaded.present == {"lidar", "thermal", "rear"}
    assert np.array_equal(loaded.thermals["thermal"].pixels, counts)
    assert loaded.ultrasonics["rear"].range_m == float("inf")


def test_existing_bag_is_not_overwritten(street: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(DatasetError, match="already exists"):
        write_bag(street, street.rig, tmp_path / "bag")


def test_unfinished_bag_is_removed(street: SyntheticDataset, tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield street[0]
        raise DatasetError("the source broke")

    with pytest.raises(DatasetError, match="the source broke"):
        write_bag(broken(), street.rig, tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_truncated_bag_raises_dataset_error_or_reads_fewer_frames(
    bag_path: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "bag"
    shutil.copytree(bag_path, copy)
    data = next(p for p in copy.iterdir() if p.suffix in (".db3", ".mcap"))
    content = data.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 9):
        data.write_bytes(content[:length])
        try:
            frames = list(BagDataset(copy))
        except DatasetError as error:
            assert str(copy) in str(error)
        else:
            assert len(frames) <= 4


@pytest.mark.parametrize("text", ["", "rosbag2_bagfile_information: 3", "{", "\x00\xff"])
def test_invalid_metadata_raises_dataset_error(bag_path: Path, tmp_path: Path, text: str) -> None:
    import shutil

    copy = tmp_path / "bag"
    shutil.copytree(bag_path, copy)
    (copy / "metadata.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError):
        BagDataset(copy)


def test_bag_without_the_topics_of_the_rig_raises_dataset_error(bag_path: Path) -> None:
    other = {
        "name": "other",
        "sensors": {"l": {"modality": "lidar", "topic": "/x", "frame_id": "l"}},
    }
    with pytest.raises(DatasetError, match="no usable message on the rig's topics /x"):
        BagDataset(bag_path, parse_rig(other, "test"))


def test_missing_transforms_are_counted(street: SyntheticDataset, tmp_path: Path) -> None:
    frame = replace(street[0], base_from_sensor=street[0].base_from_sensor)
    write_bag([frame], street.rig, tmp_path / "bag")
    rig = load_rig_with_other_base(street.rig)
    bag = BagDataset(tmp_path / "bag", rig)
    assert bag[0].present == frozenset()
    assert bag.drops["lidar", "no_transform_unknown_frame"] == 1


def load_rig_with_other_base(rig: Rig) -> Rig:
    return replace(rig, base_frame="footprint")


def test_encoders_fill_every_field_with_the_rosbags_types(street: SyntheticDataset) -> None:
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
