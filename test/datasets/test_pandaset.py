from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.pandaset import PandaSetDataset
from multimodal_perception.datasets.pandaset_cuboids import class_name
from multimodal_perception.datasets.pandaset_sequence import FRONT_POSITION, LIDAR_HEIGHT
from multimodal_perception.frame import CLASS_NAMES

pytest.importorskip("pandas")

from test.pandaset_folder import (
    FIRST_STAMP_S,
    FOCAL,
    HEIGHT,
    WIDTH,
    cuboid,
    world_from_lidar,
    write_sequence,
)


def to_world(k: int, base_points: Any) -> NDArray[np.float64]:
    """World coordinates of points (N, 3) in base_link: x forward, on the ground below the LiDAR."""
    points = np.asarray(base_points, np.float64).reshape(-1, 3)
    in_lidar = np.stack([-points[:, 1], points[:, 0], points[:, 2] - LIDAR_HEIGHT], axis=1)
    pose = world_from_lidar(k)
    return np.asarray(in_lidar @ pose[:3, :3].T + pose[:3, 3])


def rows(k: int, base_points: Any, lidar: int, intensity: float = 20.0) -> NDArray[np.float64]:
    """Rows x, y, z, i, t, d of points given in base_link."""
    xyz = to_world(k, base_points)
    rest = [intensity, FIRST_STAMP_S + 0.1 * k, float(lidar)]
    return np.column_stack([xyz, np.tile(rest, (len(xyz), 1))])


CAR = np.random.default_rng(3).uniform((9.0, 1.2, 0.3), (12.0, 2.8, 1.5), (40, 3))


def car_rows(k: int, x: float, y: float, size: Any = (2.0, 4.5, 1.6), **values: Any) -> Any:
    """The cuboid of a car at x, y in base_link of frame k, which faces along base_link's x axis."""
    position = to_world(k, [(x, y, 0.8)])[0]
    # yaw 0 is along the world's y axis; the vehicle drives along the LiDAR's y axis, turned by 0.3.
    values = {"label": "Car", "uuid": "car", **values}
    uuid, label = values.pop("uuid"), values.pop("label")
    return cuboid(uuid, label, position, size, 0.3, **values)


def write_three_frames(root: Path, **options: Any) -> None:
    points = [np.concatenate([rows(k, CAR, 0), rows(k, [(20, 0, 0.5)], 1)]) for k in range(3)]
    cuboids = [[car_rows(k, 10.5, 2.0)] for k in range(3)]
    write_sequence(root, points, cuboids, **options)


def test_points_boxes_and_poses_are_in_base_link(tmp_path: Path) -> None:
    write_three_frames(tmp_path / "002")
    dataset = open_dataset(tmp_path / "002")
    assert isinstance(dataset, PandaSetDataset) and len(dataset) == 3
    frame = dataset[1]
    assert frame.stamp_ns == round((FIRST_STAMP_S + 0.1) * 1e9)
    assert set(frame.lidars) == {"lidar", "front_lidar"}
    points = frame.points_in_base()
    np.testing.assert_allclose(points[:40, :3], CAR, atol=1e-4)
    np.testing.assert_allclose(points[40], (20, 0, 0.5, 20), atol=1e-4)
    # In their own frames: the main LiDAR's y axis is forward, the front LiDAR's x axis.
    np.testing.assert_allclose(
        frame.lidars["lidar"].points[0, :3],
        (-CAR[0, 1], CAR[0, 0], CAR[0, 2] - LIDAR_HEIGHT),
        atol=1e-4,
    )
    front = np.array([20, 0, 0.5]) - FRONT_POSITION - (0, 0, LIDAR_HEIGHT)
    np.testing.assert_allclose(frame.lidars["front_lidar"].points[0, :3], front, atol=1e-4)
    labels = frame.labels
    assert labels is not None and labels.num_points is not None
    np.testing.assert_allclose(labels.boxes[0], (10.5, 2.0, 0.8, 4.5, 2.0, 1.6, 0.0), atol=1e-4)
    assert CLASS_NAMES[labels.labels[0]] == "car" and labels.num_points.tolist() == [40]
    assert frame.odom_from_base is not None
    origin = frame.odom_from_base @ (0, 0, 0, 1)
    np.testing.assert_allclose(origin[:3], to_world(1, [(0, 0, 0)])[0], atol=1e-9)


def test_a_point_projects_to_the_pixel_of_the_published_pose(tmp_path: Path) -> None:
    write_three_frames(tmp_path)
    frame = open_dataset(tmp_path)[1]
    image = frame.cameras["front_camera"]
    assert image.stamp_ns == frame.stamp_ns - 50_000_000
    assert image.pixels.shape == (HEIGHT, WIDTH, 3)
    # The camera was 5 m/s * 0.05 s further back than at the sweep; it is 0.5 m in front of the LiDAR,
    # 0.1 m to the right and 0.2 m lower.
    point = np.array([[15.0, 1.0, 1.0]])
    camera_from_base = np.linalg.inv(frame.reference_from_sensor("front_camera"))
    pixel, visible = frame.intrinsics["front_camera"].project(
        point @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
    )
    depth, right = 15.0 - 0.5 + 0.25, -1.0 - 0.1
    down = LIDAR_HEIGHT - 0.2 - 1.0
    expected = (WIDTH / 2 + FOCAL * right / depth, HEIGHT / 2 + FOCAL * down / depth)
    np.testing.assert_allclose(pixel[0], expected, atol=1e-3)
    assert visible[0]
    # The extrinsics are those of the vehicle and the same in all frames.
    first, last = (open_dataset(tmp_path)[k].base_from_sensor["front_camera"] for k in (0, 2))
    np.testing.assert_allclose(first, last, atol=1e-12)
    np.testing.assert_allclose(first[:3, 3], (0.5, -0.1, LIDAR_HEIGHT - 0.2), atol=2e-3)


def test_velocities_are_those_over_ground(tmp_path: Path) -> None:
    # The car stays 10.5 m ahead of a vehicle that drives 5 m/s; another one is parked.
    points = [rows(k, CAR, 0) for k in range(3)]
    parked = to_world(0, [(30.0, -4.0, 0.8)])[0]
    cuboids = [
        [
            car_rows(k, 10.5, 2.0),
            cuboid("parked", "Car", parked, (2, 4, 1.5), 0.3, stationary=True),
            cuboid(f"once {k}", "Car", parked + 9, (2, 4, 1.5), 0.3),
        ]
        for k in range(3)
    ]
    write_sequence(tmp_path, points, cuboids)
    for frame in open_dataset(tmp_path):
        labels = frame.labels
        assert labels is not None and labels.velocities is not None
        np.testing.assert_allclose(labels.velocities[0], (5.0, 0.0), atol=1e-3)
        np.testing.assert_allclose(labels.velocities[1], 0.0)
        assert np.isnan(labels.velocities[2]).all()
    ids = [f.labels.track_ids.tolist() for f in open_dataset(tmp_path)]  # type: ignore[union-attr]
    assert ids[0][:2] == ids[2][:2] and ids[0][2] != ids[2][2] and min(map(min, ids)) >= 0


def test_an_object_with_a_cuboid_of_each_lidar_is_one_label(tmp_path: Path) -> None:
    siblings = {"cuboids.sensor_id": 0, "cuboids.sibling_id": "b"}
    other = {"cuboids.sensor_id": 1, "cuboids.sibling_id": "a"}
    first = [
        car_rows(0, 10.3, 2.0, uuid="b", **other),
        car_rows(0, 10.5, 2.0, uuid="a", **siblings),
    ]
    second = [car_rows(1, 10.3, 2.0, uuid="b", **other)]  # outside of the main LiDAR's cuboids
    write_sequence(tmp_path, [rows(k, CAR, 0) for k in range(2)], [first, second])
    dataset = PandaSetDataset(tmp_path)
    labels = [dataset[k].labels for k in range(2)]
    assert labels[0] is not None and labels[1] is not None
    assert len(labels[0]) == 1 and labels[0].boxes[0, 0] == pytest.approx(10.5, abs=1e-3)
    assert len(labels[1]) == 1 and labels[1].boxes[0, 0] == pytest.approx(10.3, abs=1e-3)
    assert labels[0].track_ids is not None and labels[1].track_ids is not None
    assert labels[0].track_ids[0] == labels[1].track_ids[0]
    cuboids = dataset.cuboids(1)
    assert cuboids is not None and cuboids.sensor_ids.tolist() == [1]


def test_classes_attributes_and_flags() -> None:
    assert class_name("Pickup Truck", None, 5.5) == "truck"
    assert class_name("Medium-sized Truck", None, 5.7) == "truck"
    assert class_name("Semi-truck", None, 12.0) == "truck"
    assert class_name("Towed Object", None, 5.0) == "trailer"
    assert class_name("Pedestrian with Object", None, 0.6) == "pedestrian"
    assert class_name("Bicycle", "With Rider", 1.8) == "cyclist"
    assert class_name("Motorcycle", "With Rider", 2.1) == "motorcyclist"
    assert class_name("Motorcycle", "Without Rider", 2.1) == "unknown"
    assert class_name("Emergency Vehicle", None, 8.0) == "truck"
    assert class_name("Emergency Vehicle", None, 4.9) == "car"
    assert class_name("Signs", None, 0.5) == "unknown"


def test_labels_keep_their_flags_and_attributes(tmp_path: Path) -> None:
    values = {"stationary": True, "camera_used": 2, "attributes.object_motion": "Parked"}
    bicycle = {"label": "Bicycle", "uuid": "x", "attributes.rider_status": "Without Rider"}
    cuboids = [[car_rows(0, 10.5, 2.0, **values), car_rows(0, 15.0, 0.0, **bicycle)]]
    write_sequence(tmp_path, [rows(0, CAR, 0)], cuboids)
    labels = PandaSetDataset(tmp_path).cuboids(0)
    assert labels is not None
    assert labels.stationary.tolist() == [True, False] and labels.camera_used.tolist() == [2, -1]
    assert labels.attributes["object_motion"] == ("Parked", None)
    assert labels.labels == ("Car", "Bicycle") and labels.class_names == ("car", "unknown")


def test_point_classes_belong_to_the_points_of_the_sweeps(tmp_path: Path) -> None:
    points = np.concatenate([rows(0, CAR[:3], 0), rows(0, [(20, 0, 0.5)], 1)])
    points[1, 0] = np.nan  # a point that is left out
    write_sequence(tmp_path, [points], classes=[np.array([13, 7, 13, 7])])
    dataset = PandaSetDataset(tmp_path)
    classes = dataset.point_classes(0)
    assert classes is not None
    assert classes["lidar"].tolist() == [13, 13] and classes["front_lidar"].tolist() == [7]
    assert len(dataset[0].lidars["lidar"].points) == 2
    assert dataset.sequences[0].class_names == {7: "Road", 13: "Car"}
    assert dataset.gps(0) == {"lat": 37.7, "long": -122.4, "height": 3.0, "xvel": 1.0, "yvel": 2.0}


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_all_pickle_protocols_and_plain_files_are_read(tmp_path: Path, protocol: int) -> None:
    write_three_frames(tmp_path, protocol=protocol, suffix=".pkl")
    frame = open_dataset(tmp_path)[2]
    np.testing.assert_allclose(frame.points_in_base()[:40, :3], CAR, atol=1e-4)
    assert frame.labels is not None and len(frame.labels) == 1


def test_a_folder_of_sequences_and_a_part_of_a_sequence(tmp_path: Path) -> None:
    for name in ("001", "002"):
        write_three_frames(tmp_path / name)
    (tmp_path / "002" / "lidar" / "00.pkl.gz").unlink()
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 5 and [s.root.name for s in dataset.sequences] == ["001", "002"]  # type: ignore[attr-defined]
    last = dataset[4]  # frame 02 of sequence 002, although it is the second file
    assert last.stamp_ns == dataset[2].stamp_ns
    np.testing.assert_allclose(last.points_in_base()[:40, :3], CAR, atol=1e-4)


def test_frames_without_cameras_and_labels(tmp_path: Path) -> None:
    import shutil

    write_three_frames(tmp_path)
    shutil.rmtree(tmp_path / "camera")
    shutil.rmtree(tmp_path / "annotations")
    frame = open_dataset(tmp_path)[0]
    assert not frame.cameras and frame.labels is None
    np.testing.assert_allclose(frame.points_in_base()[:40, :3], CAR, atol=1e-4)


def test_the_front_camera_defines_what_is_forward(tmp_path: Path) -> None:
    """A LiDAR that is mounted with its y axis backwards."""
    write_three_frames(tmp_path)
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    from test.pandaset_folder import pose_entry

    poses = [pose_entry(world_from_lidar(k) @ turn) for k in range(3)]
    (tmp_path / "lidar" / "poses.json").write_text(json.dumps(poses))
    frame = open_dataset(tmp_path)[1]
    np.testing.assert_allclose(frame.points_in_base()[:40, :3], CAR, atol=1e-4)


def test_a_converted_bag_has_the_same_points_and_boxes(tmp_path: Path) -> None:
    write_three_frames(tmp_path / "002")
    out = str(tmp_path / "bag")
    arguments = ["convert", "--dataset", "pandaset", "--root", str(tmp_path / "002"), "--out", out]
    assert main(arguments) == 0
    frames = list(open_dataset(out))
    assert len(frames) == 3
    original = open_dataset(tmp_path / "002")[1]
    frame = min(frames, key=lambda f: abs(f.stamp_ns - original.stamp_ns))
    points = frame.points_in_base()
    distances = np.linalg.norm(points[:, None, :3] - original.points_in_base()[None, :, :3], axis=2)
    assert len(points) == 41 and distances.min(axis=0).max() < 1e-3
    assert frame.labels is not None
    np.testing.assert_allclose(frame.labels.boxes[0], original.labels.boxes[0], atol=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lidar/poses.json", "[]", "one pose for each time"),
        ("lidar/poses.json", "[1, 2, 3]", "poses.json"),
        ("lidar/timestamps.json", "[3, 2, 1]", "must increase"),
        ("lidar/timestamps.json", '["a", 2, 3]', "timestamps.json"),
        ("lidar/poses.json", "[" * 100_000, "not JSON"),
        ("camera/front_camera/intrinsics.json", '{"fx": 0, "fy": 1, "cx": 1, "cy": 1}', "positive"),
        ("camera/front_camera/intrinsics.json", "[]", "fx, fy, cx, cy"),
        ("meta/gps.json", "{}", "expected a list"),
        ("camera/front_camera/01.jpg", "x", "not a readable image"),
        ("annotations/cuboids/01.pkl.gz", "x", "not a pickled DataFrame"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    write_three_frames(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message) as error:
        dataset = PandaSetDataset(tmp_path)
        dataset[1]
        dataset.gps(1)
    assert Path(name).name in str(error.value)


def test_wrong_cuboids_are_named(tmp_path: Path) -> None:
    for values, message in (
        ({"size": (0.0, 4.0, 1.5)}, "dimensions"),
        ({"cuboids.sensor_id": 7}, "sensor_id"),
        ({"position.x": np.nan}, "position.x"),
        ({"camera_used": "front"}, "camera_used"),
    ):
        write_sequence(tmp_path, [rows(0, CAR, 0)], [[car_rows(0, 10.5, 2.0, **values)]])
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path)[0]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a sequence of PandaSet"):
        open_dataset(tmp_path, "pandaset")
    with pytest.raises(DatasetError, match="format not recognised"):
        open_dataset(tmp_path)
