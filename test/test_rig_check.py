"""`rig check` draws a rig file and reports differences to a bag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Writer

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import (
    RosbagsTypes,
    TopicWriter,
    typestore,
    write_bag,
)
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import CameraImage, Modality
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages import encoders
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, Sensor, dump_rig, load_rig
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics, RangeLimits
from multimodal_perception.visualization.rig_view import coverage, draw_rig, field_of_view


def shipped(name: str) -> Path:
    return share_path("config", "rigs", f"{name}.yaml")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "street"
    street = SyntheticDataset()
    write_bag(street, street.rig, path)
    return path


@pytest.mark.parametrize(
    ("name", "counts"), [("amr", (1, 1, 1, 12)), ("car", (1, 6, 1, 12)), ("kitti", (1, 1, 0, 0))]
)
def test_shipped_rigs_have_the_expected_sensors(
    name: str, counts: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = load_rig(shipped(name))
    assert tuple(len(rig.sensors_of(modality)) for modality in Modality) == counts
    picture = tmp_path / "rig.png"
    assert main(["rig", "check", name, "--out", str(picture)]) == 0
    assert cv2.imread(str(picture)).std() > 5
    assert str(picture) in capsys.readouterr().out


def test_car_cameras_cover_360_degrees() -> None:
    rig = load_rig(shipped("car"))
    assert coverage(rig, Modality.CAMERA) == 1.0
    assert (coverage(rig, Modality.THERMAL) or 0) < 0.2


def test_field_of_view_matches_intrinsics_and_extrinsics() -> None:
    extrinsics = Extrinsics((0.0, 0.0, 1.0), (0.0, 0.0, np.pi / 2))
    intrinsics = Intrinsics(640, 480, 320.0, 320.0, 319.5, 239.5)
    camera = Sensor("c", Modality.CAMERA, "/c", "c", extrinsics, intrinsics=intrinsics)
    view = np.degrees(field_of_view(camera))
    assert view[0] == pytest.approx(45, abs=0.2) and view[-1] == pytest.approx(135, abs=0.2)
    ultrasonic = Sensor(
        "u",
        Modality.ULTRASONIC,
        "/u",
        "u",
        Extrinsics((0, 0, 0), (0, 0, -1.0)),
        limits=RangeLimits(0.1, 3.0, 0.6),
    )
    assert field_of_view(ultrasonic)[[0, -1]] == pytest.approx([-1.3, -0.7])
    assert field_of_view(Sensor("l", Modality.LIDAR, "/l", "l")) is None


def test_drawing_shows_the_field_of_view_of_a_sensor() -> None:
    extrinsics = Extrinsics((0.0, 0.0, 1.0))
    intrinsics = Intrinsics(640, 480, 320.0, 320.0, 319.5, 239.5)
    rig = Rig(
        "one", {"c": Sensor("c", Modality.CAMERA, "/c", "c", extrinsics, intrinsics=intrinsics)}
    )
    image = draw_rig(rig, 10.0, 400)
    empty = draw_rig(Rig("one", {"l": Sensor("l", Modality.LIDAR, "/l", "l")}), 10.0, 400)
    ahead, behind = image[130, 200], image[270, 200]
    assert int(ahead[2]) > int(empty[130, 200][2]) + 20
    assert (behind == empty[270, 200]).all()


def test_matching_bag_passes(bag: Path, tmp_path: Path) -> None:
    arguments = ["rig", "check", "synthetic", "--bag", str(bag), "--out", str(tmp_path / "p.png")]
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("topic", "is_ground_truth"), [("/view", False), ("/ground_truth/view", True)]
)
def test_ground_truth_topics_are_not_reported_as_missing_sensors(
    topic: str, is_ground_truth: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    street = SyntheticDataset(frames=1)
    sensors = dict(street.rig.sensors)
    sensors["camera"] = replace(sensors["camera"], topic=topic)
    write_bag(street, replace(street.rig, sensors=sensors), tmp_path / "bag")
    del sensors["camera"]
    (tmp_path / "rig.yaml").write_text(dump_rig(replace(street.rig, sensors=sensors)))
    arguments = ["rig", "check", str(tmp_path / "rig.yaml"), "--bag", str(tmp_path / "bag")]
    assert main([*arguments, "--out", str(tmp_path / "p.png")]) == (0 if is_ground_truth else 1)
    output = capsys.readouterr().out
    assert (
        is_ground_truth
        or f"{topic} (sensor_msgs/msg/Image) belongs to no sensor of the rig file" in output
    )


def test_differences_between_bag_and_rig_are_reported(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("""
name: wrong
odometry_topic: /odom
sensors:
  lidar: {modality: lidar, topic: /lidar/points, frame_id: roof, rate_hz: 50.0}
  camera:
    {modality: camera, topic: /camera/image_raw, frame_id: camera_optical,
     intrinsics: {width: 64, height: 48, fx: 50, fy: 50, cx: 32, cy: 24}}
  rear: {modality: lidar, topic: /rear/points, frame_id: rear}
""")
    arguments = ["rig", "check", str(path), "--bag", str(bag), "--out", str(tmp_path / "p.png")]
    assert main(arguments) == 1
    output = capsys.readouterr().out
    for text in (
        "the rig file has 50 Hz",
        "the rig file has 'roof'",
        "the rig file has 64x48",
        "rear: no messages on /rear/points",
        "no odometry on /odom",
    ):
        assert text in output


def test_invalid_bag_or_rig_is_reported_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "p.png")]
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"not a bag")
    assert main(["rig", "check", "amr", "--bag", str(broken), *out]) == 2
    assert "not a readable rosbag2" in capsys.readouterr().err
    assert main(["rig", "check", "amr", "--bag", str(tmp_path / "none"), *out]) == 2
    assert main(["rig", "check", "no_such_rig", *out]) == 2


def write_camera_bag(path: Path, topic: str) -> None:
    """A bag of one camera whose K with D differs from P with R, with a pole in /tf_static."""
    types, store = RosbagsTypes(), typestore()
    pose = poses.from_xyz_rpy((1.0, 0.0, 1.5), (-np.pi / 2, 0.0, -np.pi / 2))
    transform = encoders.transform_to_message(types, pose, "base_link", "optical", 0)
    static = types.new("tf2_msgs/msg/TFMessage", transforms=[transform])
    model = CameraModel(640, 480, np.array([[520.0, 0, 330], [0, 525, 238], [0, 0, 1]]))
    rectification = poses.from_xyz_rpy((-0.12, 0.0, 0.0), (0.01, 0.02, -0.01))
    with Writer(path, version=9) as writer:
        topics = TopicWriter(writer, store)

        def write(name: str, message_type: str, message: Any, stamp_ns: int) -> None:
            data = store.serialize_cdr(message, message_type)
            topics.write(name, message_type, stamp_ns, data)

        write("/tf_static", "tf2_msgs/msg/TFMessage", static, 0)
        for i in range(3):
            stamp_ns = i * 100_000_000
            info = encoders.camera_info_to_message(
                types, model, stamp_ns, "optical", rectification, rectified=True
            )
            info.k = np.array([600.0, 0, 320, 0, 600, 240, 0, 0, 1])
            info.d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
            write("/cam/camera_info", "sensor_msgs/msg/CameraInfo", info, stamp_ns)
            image = CameraImage("", stamp_ns, "optical", np.zeros((480, 640, 3), np.uint8))
            message = encoders.image_to_message(types, image)
            write(topic, "sensor_msgs/msg/Image", message, stamp_ns)


@pytest.mark.parametrize(("topic", "matrix"), [("/cam/image_rect", "P"), ("/cam/image_raw", "K")])
def test_rig_check_and_bag_reader_use_the_same_matrix(
    topic: str, matrix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_camera_bag(tmp_path / "bag", topic)
    (tmp_path / "rig.yaml").write_text(
        f"name: one\nsensors:\n  cam: {{modality: camera, topic: {topic}, frame_id: optical, "
        "camera_info_topic: /cam/camera_info}\n"
    )
    arguments = ["rig", "check", str(tmp_path / "rig.yaml"), "--bag", str(tmp_path / "bag")]
    assert main([*arguments, "--out", str(tmp_path / "p.png")]) == 0
    output = capsys.readouterr().out
    frame = BagDataset(tmp_path / "bag", load_rig(tmp_path / "rig.yaml"))[1]
    focal = frame.intrinsics["cam"].matrix[0, 0]
    pole = np.array([[8.0, 1.0, 1.0]])
    in_camera = poses.transform_points(poses.inverse(frame.base_from_sensor["cam"]), pole)
    if matrix == "P":
        assert focal == 520.0 and "intrinsics: P of the CameraInfo, pinhole" in output
        assert "displaced by (0.12, 0) m" in output
        base_from_optical = poses.from_xyz_rpy((1.0, 0.0, 1.5), (-np.pi / 2, 0.0, -np.pi / 2))
        rectification = poses.from_xyz_rpy((-0.12, 0.0, 0.0), (0.01, 0.02, -0.01))
        expected = poses.transform_points(rectification @ poses.inverse(base_from_optical), pole)
        np.testing.assert_allclose(in_camera, expected, atol=1e-9)
    else:
        assert focal == 600.0 and "intrinsics: K and D of the CameraInfo, plumb_bob" in output
        assert frame.camera_from_optical == {}


def test_images_of_another_aspect_ratio_are_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_camera_bag(tmp_path / "bag", "/cam/image_raw")
    (tmp_path / "rig.yaml").write_text(
        "name: one\nsensors:\n  cam: {modality: camera, topic: /cam/image_raw, frame_id: optical, "
        "intrinsics: {width: 600, height: 480, fx: 500, fy: 500, cx: 300, cy: 240}}\n"
    )
    arguments = ["rig", "check", str(tmp_path / "rig.yaml"), "--bag", str(tmp_path / "bag")]
    assert main([*arguments, "--out", str(tmp_path / "p.png")]) == 1
    assert "another aspect ratio" in capsys.readouterr().out
