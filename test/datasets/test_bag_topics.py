"""Classification of the topics of a bag without a rig file: sensors, maps, depth images, versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_topics import MAP_WORDS, TopicSample, classify_topics
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.frame import Modality
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages import encoders
from multimodal_perception.synchronization.sensor_frames import FIXED_FRAMES
from test.bag_messages import (
    CLOUD,
    IMAGE,
    INFO,
    START_NS,
    TF,
    TYPES,
    Entry,
    cloud,
    image,
    transform,
    write_messages,
)

MODEL = CameraModel(8, 6, np.array([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]))
PIXELS: dict[str, Any] = {
    "bgr8": np.zeros((6, 8, 3), np.uint8),
    "mono8": np.zeros((6, 8), np.uint8),
    "mono16": np.zeros((6, 8), np.uint16),
    "16UC1": np.zeros((6, 8), np.uint16),
    "32FC1": np.zeros((6, 8), np.float32),
    "32SC1": np.zeros((6, 8), np.int32),
    "bayer_rggb8": np.zeros((6, 8), np.uint8),
}


def sweeps(topic: str, frame: str, count: int = 10, **more: Any) -> list[Entry]:
    step = 100_000_000
    return [(k * step, topic, CLOUD, cloud(k * step, frame, **more)) for k in range(count)]


def images(topic: str, encoding: str, frame: str = "optical", count: int = 3) -> list[Entry]:
    info = topic.rsplit("/", 1)[0] + "/camera_info"
    step = 100_000_000
    return [
        entry
        for k in range(count)
        for entry in (
            (
                k * step,
                info,
                INFO,
                encoders.camera_info_to_message(TYPES, MODEL, START_NS + k * step, frame),
            ),
            (k * step, topic, IMAGE, image(k * step, frame, encoding, PIXELS[encoding])),
        )
    ]


STATIC: Entry = (
    0,
    "/tf_static",
    TF,
    transform("base_link", "lidar", 1.0, optical=("base_link", 0.5), roof=("base_link", 0.1)),
)


def opened(tmp_path: Path, *entries: Entry) -> BagDataset:
    return BagDataset(write_messages(tmp_path / "bag", [STATIC, *entries]))


def test_depth_images_and_maps_are_not_sensors(tmp_path: Path) -> None:
    bag = opened(
        tmp_path,
        *sweeps("/lidar/points", "lidar"),
        *sweeps("/global_map", "map", count=5),
        *sweeps("/accumulated", "odom"),
        *images("/camera/image_raw", "bgr8"),
        *images("/depth/image_rect_raw", "16UC1"),
        *images("/front/image_16", "16UC1"),
    )
    assert {n: s.modality for n, s in bag.rig.sensors.items()} == {
        "lidar": Modality.LIDAR,
        "camera": Modality.CAMERA,
    }
    notes = "\n".join(bag.notes)
    assert "/lidar/points: taken as lidar 'lidar': points in lidar" in notes
    assert "/camera/image_raw: taken as camera 'camera': bgr8" in notes
    assert "/global_map: not used: a map or accumulated cloud: its frame map" in notes
    assert "/accumulated: not used: a map or accumulated cloud" in notes
    assert "/depth/image_rect_raw: not used: a depth image (16UC1)" in notes
    assert "/front/image_16: not used: 16UC1 is a depth image (REP 118)" in notes
    assert bag[0].present == {"lidar", "camera"}


@pytest.mark.parametrize(
    ("topic", "encoding", "modality"),
    [
        ("/camera/image_raw", "bgr8", Modality.CAMERA),
        ("/camera/image_raw", "bayer_rggb8", Modality.CAMERA),
        ("/camera/image_raw", "mono16", Modality.CAMERA),
        ("/camera/infra1/image_rect_raw", "mono8", Modality.CAMERA),
        ("/flir_camera/image_raw", "bayer_rggb8", Modality.CAMERA),
        ("/flir_boson/image_raw", "16UC1", Modality.THERMAL),
        ("/thermal/image_raw", "mono16", Modality.THERMAL),
        ("/thermal/image_raw", "32FC1", Modality.THERMAL),
        ("/lwir/image", "mono8", Modality.THERMAL),
        ("/camera/depth/image_raw", "16UC1", None),
        ("/camera/aligned_depth_to_color/image_raw", "16UC1", None),
        ("/stereo/disparity_image", "32FC1", None),
        ("/camera/image_raw", "32FC1", None),
        ("/camera/semantic", "mono8", None),
        ("/camera/instance", "32SC1", None),
        ("/camera/image_raw", "32SC1", None),
        ("/yolo/debug/image", "bgr8", None),
    ],
)
def test_image_topics(topic: str, encoding: str, modality: Modality | None, tmp_path: Path) -> None:
    bag = opened(tmp_path, *sweeps("/lidar/points", "lidar"), *images(topic, encoding))
    taken = [s.modality for s in bag.rig.sensors.values() if s.topic == topic]
    assert taken == ([] if modality is None else [modality])
    assert any(n.startswith(f"{topic}: ") for n in bag.notes)


@pytest.mark.parametrize(
    ("topic", "frame", "more", "reason"),
    [
        ("/camera/depth/color/points", "optical", {}, "depth camera"),
        ("/radar/points", "radar", {}, "radar"),
        ("/front/points", "lidar", {"names": ("rcs", "doppler")}, "radar"),
        ("/octomap_points", "lidar", {}, "named like a map"),
        ("/lidar/points_filtered", "lidar", {}, "computed from the sweeps of /lidar/points"),
        ("/obstacles", "base_link", {}, "named like a result"),
        ("/other", "lidar", {}, "computed from the sweeps of /lidar/points"),
        ("/empty", "roof", {"count": 0}, "no points"),
    ],
)
def test_clouds_that_are_no_lidar(
    topic: str, frame: str, more: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    count = {"points": more.pop("count")} if "count" in more else {}
    step = 100_000_000
    extra = [
        (k * step, topic, CLOUD, cloud(k * step, frame, count.get("points", 20), **more))
        for k in range(10)
    ]
    lidar = sweeps("/lidar/points", "lidar", names=("intensity", "ring"))
    bag = opened(tmp_path, *lidar, *extra)
    assert [s.topic for s in bag.rig.sensors.values()] == ["/lidar/points"]
    assert any(n.startswith(f"{topic}: not used: ") and reason in n for n in bag.notes)


def test_two_lidars_remain_two_sensors(tmp_path: Path) -> None:
    bag = opened(tmp_path, *sweeps("/left/points", "lidar"), *sweeps("/right/points", "roof"))
    assert set(bag.rig.sensors) == {"left", "right"}
    both = tmp_path / "vehicle"
    in_base = [*sweeps("/left/points", "base_link"), *sweeps("/right/points", "base_link")]
    assert set(BagDataset(write_messages(both, [STATIC, *in_base])).rig.sensors) == {
        "left",
        "right",
    }


def test_versions_of_one_image_are_one_camera(tmp_path: Path) -> None:
    compressed = TYPES.new(
        "sensor_msgs/msg/CompressedImage",
        header=encoders.make_header(TYPES, START_NS, "optical"),
        format="bgr8; jpeg compressed bgr8",
        data=np.zeros(4, np.uint8),
    )
    bag = opened(
        tmp_path,
        *images("/camera/image_raw", "bgr8"),
        *images("/camera/image_rect_color", "bgr8"),
        (0, "/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", compressed),
    )
    assert [s.topic for s in bag.rig.sensors.values()] == ["/camera/image_raw"]
    assert sum("another version" in n for n in bag.notes) == 2


def test_one_latched_cloud_in_a_long_bag_is_a_map(tmp_path: Path) -> None:
    lidar = sweeps("/lidar/points", "lidar", count=40)
    bag = opened(tmp_path, *lidar, (0, "/site", CLOUD, cloud(0, "site")))
    assert set(bag.rig.sensors) == {"lidar"}
    assert any("a single message" in n for n in bag.notes)


def test_frames_above_the_vehicle_in_tf_are_maps(tmp_path: Path) -> None:
    chain = (0, "/tf", TF, transform("camera_init", "base_link", 1.0))
    bag = opened(tmp_path, chain, *sweeps("/lidar", "lidar"), *sweeps("/slam", "camera_init"))
    assert set(bag.rig.sensors) == {"lidar"}


def test_vehicle_frame_and_odometry_are_inferred(tmp_path: Path) -> None:
    static = (0, "/tf_static", TF, transform("base_footprint", "lidar", 1.0))
    odom = (0, "/tf", TF, transform("map", "base_footprint", 1.0))
    path = write_messages(tmp_path / "bag", [static, odom, *sweeps("/lidar/points", "lidar")])
    bag = BagDataset(path)
    assert (bag.rig.base_frame, bag.rig.odom_frame) == ("base_footprint", "map")
    assert any("base_frame is 'base_footprint' and odom_frame 'map'" in n for n in bag.notes)


def test_packets_and_scans_are_stated_with_their_converter() -> None:
    result = classify_topics({}, {"/scan": "sensor_msgs/msg/LaserScan", "/x": "a/msg/B"})
    assert list(result) == ["/scan"]
    assert "laser_geometry" in result["/scan"].reason


def test_bag_with_maps_only_names_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="/map: a map or accumulated cloud"):
        opened(tmp_path, *sweeps("/map", "map"))


def test_commands_print_what_was_taken_for_what(tmp_path: Path, capsys: Any) -> None:
    opened(tmp_path, *sweeps("/lidar/points", "lidar"), *sweeps("/map", "map"))
    out = str(tmp_path / "copy")
    assert main(["convert", "--root", str(tmp_path / "bag"), "--out", out]) == 0
    stderr = capsys.readouterr().err
    assert "note: /lidar/points: taken as lidar 'lidar'" in stderr
    assert "note: /map: not used" in stderr
    (tmp_path / "rig.yaml").write_text(
        "name: r\nsensors: {lidar: {modality: lidar, topic: /lidar/points, frame_id: lidar}}\n"
    )
    rig = ["rig", "check", str(tmp_path / "rig.yaml"), "--bag", str(tmp_path / "bag")]
    assert main([*rig, "--out", str(tmp_path / "p.png")]) == 0
    assert "/map (sensor_msgs/msg/PointCloud2) is not used" in capsys.readouterr().out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    frame=st.sampled_from([*FIXED_FRAMES, "robot/map", "lidar"]),
    word=st.sampled_from(["", *MAP_WORDS]),
    rate_hz=st.floats(0.01, 30),
)
def test_fixed_frames_and_map_names_are_never_lidars(frame: str, word: str, rate_hz: float) -> None:
    topic = f"/a_{word}/points"
    sample = TopicSample(topic, CLOUD, 100, False, rate_hz, (cloud(0, frame),))
    taken = classify_topics({topic: sample}, {topic: CLOUD}, (), 10.0)[topic]
    is_lidar = frame == "lidar" and not word and rate_hz >= 0.2
    assert (taken.modality is Modality.LIDAR) == is_lidar
    assert taken.reason
