"""The reader of nuScenes v1.0 tables: generated tables, invalid tables, and the real sample."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.datasets.nuscenes_tables import NuScenesDataset
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

Tables = dict[str, list[dict[str, Any]]]
STAMP_US = 1_532_402_927_647_951
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.9, 0.0, 1.8), (0.0, 0.0, -math.pi / 2))
BASE_FROM_CAMERA = poses.from_xyz_rpy((1.7, 0.0, 1.5)) @ BODY_FROM_OPTICAL


def row_with_pose(token: str, pose: np.ndarray, **more: Any) -> dict[str, Any]:
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return {"token": token, "translation": pose[:3, 3].tolist(), "rotation": [w, x, y, z], **more}


def ego_pose(k: int) -> np.ndarray:
    return poses.from_xyz_rpy((400.0 + 5 * k, 1100.0, 0.0), (0.0, 0.0, 0.5))


def tables() -> Tables:
    """Two samples at an interval of 0.5 s, a car driving ahead, a standing cone and a dog."""
    result: Tables = {
        "scene": [{"token": "scene"}],
        "sample": [
            {"token": f"s{k}", "scene_token": "scene", "timestamp": STAMP_US + 500_000 * k}
            for k in (1, 0)
        ],
        "sensor": [
            {"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
            {"token": "front", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "radar", "channel": "RADAR_FRONT", "modality": "radar"},
        ],
        "calibrated_sensor": [
            row_with_pose("lidar", BASE_FROM_LIDAR, sensor_token="lidar", camera_intrinsic=[]),
            row_with_pose(
                "front",
                BASE_FROM_CAMERA,
                sensor_token="front",
                camera_intrinsic=[[100, 0, 32], [0, 100, 24], [0, 0, 1]],
            ),
            row_with_pose("radar", np.eye(4), sensor_token="radar", camera_intrinsic=[]),
        ],
        "sample_data": [],
        "ego_pose": [],
        "category": [
            {"token": "car", "name": "vehicle.car"},
            {"token": "cone", "name": "movable_object.trafficcone"},
            {"token": "dog", "name": "animal"},
        ],
        "instance": [{"token": f"i_{c}", "category_token": c} for c in ("car", "cone", "dog")],
        "attribute": [{"token": "moving"}, {"token": "parked"}],
        "visibility": [{"token": "4", "level": "v80-100"}, {"token": "1", "level": "v0-40"}],
        "sample_annotation": [],
    }
    for k in range(2):
        for sensor, name, late in (
            ("lidar", f"samples/LIDAR_TOP/{k}.pcd.bin", 0),
            ("front", f"samples/CAM_FRONT/{k}.png", -20_000),
            ("radar", f"samples/RADAR_FRONT/{k}.pcd", 0),
        ):
            result["sample_data"].append(
                {
                    "token": f"{sensor}{k}",
                    "sample_token": f"s{k}",
                    "ego_pose_token": f"{sensor}{k}",
                    "calibrated_sensor_token": sensor,
                    "timestamp": STAMP_US + 500_000 * k + late,
                    "filename": name,
                    "is_key_frame": True,
                }
            )
            # The vehicle moves 0.2 m in 20 ms.
            moved = ego_pose(k) @ poses.from_xyz_rpy((late * 1e-5, 0, 0))
            result["ego_pose"].append(row_with_pose(f"{sensor}{k}", moved))
        for category, position, size in (
            ("car", (12 + 3 * k, 2, 0.8), [1.9, 4.6, 1.6]),
            ("cone", (8, -2, 0.5), [0.4, 0.4, 1.0]),
            ("dog", (6, 1, 0.3), [0.3, 0.9, 0.6]),
        ):
            pose = ego_pose(k) @ poses.from_xyz_rpy(position, (0, 0, 0.2))
            result["sample_annotation"].append(
                row_with_pose(
                    f"{category}{k}",
                    pose,
                    sample_token=f"s{k}",
                    instance_token=f"i_{category}",
                    size=size,
                    visibility_token="4" if category == "car" else "1",
                    attribute_tokens=["parked"] if category == "car" else [],
                    num_lidar_pts=7 * k,
                    prev=f"{category}{k - 1}" if k else "",
                    next="" if k or category == "dog" else f"{category}{k + 1}",
                )
            )
    return result


def write(root: Path, content: Tables, version: str = "v1.0-mini") -> Path:
    (root / version).mkdir(parents=True)
    for name, rows in content.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    for row in content["sample_data"]:
        path = root / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".bin":
            np.array([[0, 10, -1, 12, 3], [5, 5, 5, 5, 0]], np.float32).tofile(path)
        elif path.suffix == ".png":
            cv2.imwrite(str(path), np.full((48, 64, 3), (10, 20, 30), np.uint8))
    return root


def test_generated_tables_are_read_as_frames(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, tables()))
    assert isinstance(data, NuScenesDataset) and len(data) == 2
    assert set(data.rig.sensors) == {"lidar_top", "cam_front"}
    first, second = data
    assert first.stamp_ns == STAMP_US * 1000 and second.stamp_ns - first.stamp_ns == 500_000_000
    assert first.present == {"lidar_top", "cam_front"} and not first.missing
    # A point at 10 m on the LiDAR's y axis is 10 m ahead of it.
    assert first.points_in_base()[0, :3] == pytest.approx([10.9, 0.0, 0.8], abs=1e-5)
    assert first.lidars["lidar_top"].rings is not None
    image = first.cameras["cam_front"]
    assert image.pixels.shape == (48, 64, 3) and image.rgb()[0, 0].tolist() == [30, 20, 10]
    assert first.reference_from_sensor("cam_front")[:3, 3] == pytest.approx([1.5, 0, 1.5], abs=1e-6)
    assert first.intrinsics["cam_front"].matrix[0, 0] == 100
    labels = first.labels
    assert labels is not None
    assert [CLASS_NAMES[k] for k in labels.labels] == ["car", "cone", "unknown"]
    assert labels.boxes[0] == pytest.approx([12, 2, 0.8, 4.6, 1.9, 1.6, 0.2], abs=1e-3)
    assert labels.visibility == pytest.approx([0.9, 0.2, 0.2])
    assert labels.num_points is not None and second.labels is not None
    assert labels.num_points.tolist() == [0, 0, 0] and second.labels.num_points.tolist() == [7] * 3  # type: ignore[union-attr]
    assert labels.velocities is not None
    # The vehicle moves 5 m along the map's x axis in 0.5 s; its heading in the map is 0.5 rad.
    along = 10 * np.array([math.cos(0.5), -math.sin(0.5)])
    assert labels.velocities[0] == pytest.approx([along[0] + 6, along[1]], abs=1e-3)
    assert labels.velocities[1] == pytest.approx(along, abs=1e-3)
    assert np.isnan(labels.velocities[2]).all(), "the dog has a single annotation"
    assert data.attributes(0).tolist() == [1, -1, -1]
    assert np.array_equal(labels.track_ids, second.labels.track_ids)


def test_attributes_are_used_in_the_evaluation(tmp_path: Path) -> None:
    root, out = write(tmp_path / "data", tables()), tmp_path / "r.json"
    assert main(["evaluate", "detections", "--root", str(root), "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["nuscenes"]
    # In the first sample the car has no points but is visible. Cones are not evaluated by default.
    assert metrics["labels"] == 2 and metrics["by_class"]["car"]["labels"] == 2
    assert metrics["aae"] == 1.0, "the detector predicts no attributes"


def test_version_without_labels_and_folder_with_several_versions(tmp_path: Path) -> None:
    unlabelled = tables()
    unlabelled["sample_annotation"] = []
    write(tmp_path, unlabelled, "v1.0-test")
    assert NuScenesDataset(tmp_path)[0].labels is None
    write(tmp_path, tables(), "v1.0-mini")
    with pytest.raises(DatasetError, match=r"v1\.0-mini, v1\.0-test; give the path of one"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "v1.0-mini")[0].labels is not None


def broken(name: str, **changes: Any) -> Tables:
    """The tables with some values changed in every row of one table."""
    result = tables()
    for row in result[name]:
        row.update(changes)
    return result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (broken("sample", scene_token="none"), "inconsistent tables"),
        (broken("sample_data", calibrated_sensor_token="none"), "inconsistent tables"),
        (broken("sample_data", ego_pose_token="none"), "sample 0: KeyError"),
        (broken("sample_data", is_key_frame=False), "no key frame"),
        (broken("sample_data", filename="../../etc/passwd"), "no file"),
        (broken("ego_pose", rotation=[0, 0, 0, 0]), "sample 0: ValueError"),
        (broken("calibrated_sensor", camera_intrinsic=[[0]]), "sample 0"),
        (broken("sample_annotation", size=[1, 2]), "sample 0: ValueError"),
        (broken("sample_annotation", instance_token="none"), "sample 0: KeyError"),
        (broken("sample_annotation", translation=[math.nan, 0, 0]), "sample 0: ValueError"),
        ({**tables(), "sample": []}, "no samples"),
        ({**tables(), "sensor": [{"channel": "a"}]}, r"sensor\.json: not a nuScenes table"),
    ],
)
def test_invalid_tables_raise_error_with_table_or_sample(
    content: Tables, message: str, tmp_path: Path
) -> None:
    write(tmp_path, tables())
    for name, rows in content.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=message):
        NuScenesDataset(tmp_path)[0]


def test_invalid_files_raise_error_with_file_name(tmp_path: Path) -> None:
    write(tmp_path, tables())
    (tmp_path / "samples/CAM_FRONT/0.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0\.png: not a readable image"):
        NuScenesDataset(tmp_path)[0]
    (tmp_path / "samples/LIDAR_TOP/1.pcd.bin").write_bytes(b"1234567")
    with pytest.raises(
        DatasetError, match=r"1\.pcd\.bin: the size is 7 bytes, not a multiple of 4"
    ):
        NuScenesDataset(tmp_path)[1]
    (tmp_path / "v1.0-mini/category.json").write_text("{")
    with pytest.raises(DatasetError, match=r"category\.json: not a nuScenes table"):
        NuScenesDataset(tmp_path)
    (tmp_path / "v1.0-mini/category.json").unlink()
    with pytest.raises(DatasetError, match=r"category\.json"):
        NuScenesDataset(tmp_path)


def test_real_sample_as_tables_and_as_info_file_give_the_same_frame(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "nuscenes_frame"
    info = json.loads((folder / "frame.json").read_text())
    sample, names = info["data_list"][0], info["metainfo"]["categories"]
    map_from_base = rigid(sample["ego2global"])
    base_from_lidar = rigid(sample["lidar_points"]["lidar2ego"])
    content = tables()
    content |= {"sample_data": [], "ego_pose": [], "sensor": [], "calibrated_sensor": []}
    content |= {"sample_annotation": [], "instance": [], "sample": content["sample"][1:]}
    sensors = {"LIDAR_TOP": (sample["lidar_points"]["lidar_path"], base_from_lidar, map_from_base)}
    for channel, entry in sample["images"].items():
        base_from_camera = rigid(entry["cam2ego"])
        # The ego pose at the exposure; lidar2cam includes the motion since the sweep.
        exposure_pose = base_from_lidar @ poses.inverse(rigid(entry["lidar2cam"]))
        exposure_pose = map_from_base @ exposure_pose @ poses.inverse(base_from_camera)
        sensors[channel] = entry["img_path"], base_from_camera, exposure_pose
    for channel, (name, extrinsics, vehicle_pose) in sensors.items():
        modality = "lidar" if channel == "LIDAR_TOP" else "camera"
        content["sensor"].append({"token": channel, "channel": channel, "modality": modality})
        matrix = [] if modality == "lidar" else sample["images"][channel]["cam2img"]
        content["calibrated_sensor"].append(
            row_with_pose(channel, extrinsics, sensor_token=channel, camera_intrinsic=matrix)
        )
        content["ego_pose"].append(row_with_pose(channel, vehicle_pose))
        file = f"samples/{channel}/{name}"
        stamp = int(Path(name.split(".")[0]).name.rsplit("__", 1)[-1])
        content["sample_data"].append(
            {"token": channel, "sample_token": "s0", "ego_pose_token": channel, "timestamp": stamp,
             "calibrated_sensor_token": channel, "filename": file, "is_key_frame": True}
        )  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True)
        shutil.copy(folder / name, tmp_path / file)
    detection = {v: k for k, v in names.items()}
    content["category"] = [
        {"token": "car", "name": "vehicle.car"},
        {"token": "no", "name": "animal"},
    ]
    for k, instance in enumerate(sample["instances"]):
        box = np.array(instance["bbox_3d"])
        pose = poses.from_xyz_rpy(box[:3], (0, 0, box[6]))
        car = detection.get(instance["bbox_label_3d"]) == "car"
        content["instance"].append({"token": str(k), "category_token": "car" if car else "no"})
        content["sample_annotation"].append(
            row_with_pose(str(k), map_from_base @ base_from_lidar @ pose, sample_token="s0", prev="",
                   next="", instance_token=str(k), size=box[[4, 3, 5]].tolist(),
                   visibility_token="4", attribute_tokens=[],
                   num_lidar_pts=instance["num_lidar_pts"])
        )  # fmt: skip
    (tmp_path / "v1.0-mini").mkdir()
    for name, rows in content.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    first, second = NuScenesDataset(tmp_path)[0], NuScenesSampleDataset(folder)[0]
    assert first.present == second.present and len(first.cameras) == 6
    np.testing.assert_allclose(first.points_in_base(), second.points_in_base(), atol=1e-3)
    for name in first.cameras:
        np.testing.assert_allclose(
            first.reference_from_sensor(name), second.reference_from_sensor(name), atol=1e-3
        )
        assert np.array_equal(first.cameras[name].pixels, second.cameras[name].pixels)
        assert first.cameras[name].stamp_ns == second.cameras[name].stamp_ns
    assert first.labels is not None and second.labels is not None
    np.testing.assert_allclose(first.labels.boxes[:, :6], second.labels.boxes[:, :6], atol=2e-3)
    yaw_difference = poses.wrap_angle(first.labels.boxes[:, 6] - second.labels.boxes[:, 6])
    assert np.abs(yaw_difference).max() < 0.01
    car = CLASS_NAMES.index("car")
    assert np.array_equal(first.labels.labels == car, second.labels.labels == car)


def rigid(values: Any) -> np.ndarray:
    """A pose whose rotation matrix is orthonormal in float64."""
    pose = np.array(values, np.float64)
    return poses.from_quaternion(pose[:3, 3], Rotation.from_matrix(pose[:3, :3]).as_quat())
