"""`rig check` draws a rig file and reports differences to a bag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import Modality
from multimodal_perception.resources import share_path
from multimodal_perception.rig import (
    Extrinsics,
    Intrinsics,
    RangeLimits,
    Rig,
    Sensor,
    dump_rig,
    load_rig,
)
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
