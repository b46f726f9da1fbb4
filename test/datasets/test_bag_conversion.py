"""A bag that `convert` writes is read and evaluated like the data that it was written from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.rig import parse_rig

CATEGORIES = {"car": 0, "pedestrian": 1}


def nuscenes_folder(folder: Path, frames: int = 3) -> Path:
    """Samples of a moving vehicle: cameras up to 0.1 s older than the sweep, frames every 1.2 s."""
    rng = np.random.default_rng(3)
    samples = []
    for k in range(frames):
        stamp_us = 1_557_539_956_500_022 + k * 1_200_000
        points = np.zeros((2000, 5), np.float32)
        points[:, :3] = rng.uniform((-20, -20, -1.8), (20, 20, 0.5), (2000, 3))
        points[::50, :3] = 0.0  # missing returns
        lidar = f"x__LIDAR__{stamp_us}.pcd.bin"
        points.tofile(folder / lidar)
        images = {}
        for name, delay_us in (("FRONT", 50_000), ("BACK", 99_900)):
            path = f"x__{name}__{stamp_us - delay_us}.jpg"
            cv2.imwrite(str(folder / path), rng.integers(0, 255, (40, 60, 3), np.uint8))
            lidar_from_camera = poses.from_xyz_rpy((1, 0.01 * k, 0), (-1.57, 0.01, -1.57))
            images[name] = {
                "img_path": path,
                "cam2img": [[50.0, 0, 30], [0, 50.0, 20], [0, 0, 1]],
                "lidar2cam": poses.inverse(lidar_from_camera).tolist(),
            }
        instances = [
            {
                "bbox_3d": [float(v) for v in (*rng.uniform(-15, 15, 2), -1, 4.4, 1.9, 1.6, yaw)],
                "bbox_label_3d": i % 2,
                "velocity": [float("nan"), 0.0] if i == 0 else [1.5, -0.25],
            }
            for i, yaw in enumerate(rng.uniform(-4, 4, 12))
        ]
        samples.append(
            {
                "timestamp": stamp_us / 1e6,
                "lidar_points": {
                    "lidar_path": lidar,
                    "num_pts_feats": 5,
                    "lidar2ego": poses.from_xyz_rpy((0.9, 0, 1.84), (0, 0, -1.57)).tolist(),
                },
                "images": images,
                "ego2global": poses.from_xyz_rpy((600 + 9.0 * k, 1600, 0), (0, 0, 0.3)).tolist(),
                "instances": instances,
            }
        )
    info = {"metainfo": {"categories": CATEGORIES}, "data_list": samples}
    (folder / "frame.json").write_text(json.dumps(info))
    return folder


def assert_equal(loaded: SensorFrame, written: SensorFrame) -> None:
    assert loaded.stamp_ns == written.stamp_ns
    assert (loaded.present, loaded.expected) == (written.present, written.expected)
    assert np.allclose(loaded.points_in_base(), written.points_in_base(), atol=1e-5)
    for name in written.readings:
        assert np.allclose(
            loaded.reference_from_sensor(name), written.reference_from_sensor(name), atol=1e-6
        )
    for name, image in written.cameras.items():
        assert np.array_equal(loaded.cameras[name].pixels, image.pixels)
        assert loaded.cameras[name].stamp_ns == image.stamp_ns
    assert (loaded.odom_from_base is None) == (written.odom_from_base is None)
    if loaded.odom_from_base is not None and written.odom_from_base is not None:
        assert np.allclose(loaded.odom_from_base, written.odom_from_base, atol=1e-6)
    for attribute in ("vehicle_footprint", "odom_frame", "base_frame", "ground_z"):
        assert getattr(loaded, attribute) == getattr(written, attribute)
    a, b = loaded.labels, written.labels
    assert a is not None and b is not None
    assert np.array_equal(a.labels, b.labels) and np.array_equal(a.num_points, b.num_points)
    assert np.allclose(a.boxes[:, :6], b.boxes[:, :6], atol=1e-6)
    assert np.allclose(np.cos(a.boxes[:, 6] - b.boxes[:, 6]), 1.0)
    assert (a.velocities is None) == (b.velocities is None)
    if a.velocities is not None and b.velocities is not None:
        assert np.array_equal(a.velocities, b.velocities, equal_nan=True)


def evaluate(root: Path, out: Path) -> dict[str, Any]:
    arguments = ["evaluate", "detections", "--root", str(root), "--detector", "geometric"]
    assert main([*arguments, "--repeats", "1", "--json", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return {k: v for k, v in result.items() if "ms" not in k and k != "tracking"}


def without_times(values: Any) -> Any:
    if isinstance(values, dict):
        ignored = {k for k in values if k.endswith("_ms")} | {"drives"}  # "drives": names
        return {k: without_times(v) for k, v in values.items() if k not in ignored}
    return values


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_nuscenes_folder_and_its_bag_have_equal_frames(storage: str, tmp_path: Path) -> None:
    folder = NuScenesSampleDataset(nuscenes_folder(tmp_path))
    write_bag(folder, folder.rig, tmp_path / "bag", storage)  # type: ignore[arg-type]
    bag = BagDataset(tmp_path / "bag")
    assert len(bag) == len(folder)
    for loaded, written in zip(bag, folder, strict=True):
        assert len(written.lidars["lidar_top"].points) == 1960
        assert_equal(loaded, written)
    assert not +bag.drops
    assert any("the rig 'nuscenes' that is stored in the bag is used" in n for n in bag.notes)


def test_nuscenes_folder_and_its_bag_have_equal_results(tmp_path: Path) -> None:
    nuscenes_folder(tmp_path)
    assert main(["convert", "--root", str(tmp_path), "--out", str(tmp_path / "bag")]) == 0
    results = [evaluate(p, tmp_path / "r.json") for p in (tmp_path, tmp_path / "bag")]
    assert without_times(results[0]) == without_times(results[1])
    assert results[0]["counts"]["labels"] > 0


@pytest.mark.parametrize("name", ["nuscenes_frame", "pandaset"])
def test_real_samples_and_their_bags_have_equal_results(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    root = shared_data / name
    assert main(["convert", "--root", str(root), "--out", str(tmp_path / "bag")]) == 0
    for loaded, written in zip(open_dataset(tmp_path / "bag"), open_dataset(root), strict=True):
        assert_equal(loaded, written)
    results = [evaluate(p, tmp_path / "r.json") for p in (root, tmp_path / "bag")]
    assert results[0]["counts"] == results[1]["counts"]


def test_conversion_of_a_bag_keeps_its_frames(tmp_path: Path) -> None:
    first: Dataset = NuScenesSampleDataset(nuscenes_folder(tmp_path))
    for name in ("a", "b"):
        write_bag(first, first.rig, tmp_path / name)
        second = BagDataset(tmp_path / name)
        for loaded, written in zip(second, first, strict=True):
            assert_equal(loaded, written)
        first = second


def test_units_and_offsets_of_the_rig_are_not_applied_twice(tmp_path: Path) -> None:
    street = SyntheticDataset(frames=1, rings=4, columns=32)
    sensors = {
        "lidar": {
            "modality": "lidar",
            "topic": "/lidar/points",
            "frame_id": "lidar",
            "metres_per_unit": 0.001,
            "time_offset_s": 0.02,
        },
        "thermal": {
            "modality": "thermal",
            "topic": "/thermal/image_raw",
            "camera_info_topic": "/thermal/camera_info",
            "frame_id": "thermal_optical",
        },
    }
    rig = parse_rig({"name": "r", "sensors": sensors, "footprint": [4.0, 2.0]}, "test")
    frame = street[0]
    counts = np.full((400, 960), 30000, np.uint16)
    thermal = ThermalImage("thermal", frame.stamp_ns, "thermal_optical", counts, (0.01, 0.0))
    pose = frame.base_from_sensor["camera"]
    written = SensorFrame(
        frame.stamp_ns,
        lidars=frame.lidars,
        thermals={"thermal": thermal},
        base_from_sensor={"lidar": frame.base_from_sensor["lidar"], "thermal": pose},
        intrinsics={"thermal": frame.intrinsics["camera"]},
    )
    write_bag([written], rig, tmp_path / "bag")
    loaded = BagDataset(tmp_path / "bag")[0]
    assert loaded.stamp_ns == written.stamp_ns
    assert np.array_equal(loaded.lidars["lidar"].points, frame.lidars["lidar"].points)
    assert loaded.thermals["thermal"].counts_to_kelvin == (0.01, 0.0)
    assert loaded.vehicle_footprint == rig.vehicle_footprint


def test_label_properties_of_another_number_are_counted(tmp_path: Path) -> None:
    street = SyntheticDataset(frames=1, rings=4, columns=32)
    frame = street[0]
    assert frame.labels is not None
    visibility = np.linspace(0, 1, len(frame.labels)).astype(np.float32)
    labelled = replace(frame, labels=replace(frame.labels, visibility=visibility))
    write_bag([labelled], street.rig, tmp_path / "bag")
    bag = BagDataset(tmp_path / "bag")
    labels = bag[0].labels
    assert labels is not None and np.array_equal(labels.visibility, visibility)
    bag._labels._properties = {k: v[:-1] for k, v in bag._labels._properties.items()}
    labels = bag[0].labels
    assert labels is not None and labels.visibility is None
    assert bag.drops["/ground_truth/visibility", "wrong_number"] == 1
