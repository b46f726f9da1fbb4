"""nuScenes v1.0's layout: tables made here with known answers, broken ones, and the real sample."""

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
from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.datasets.nuscenes_tables import NuScenes
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.rig import OPTICAL

Tables = dict[str, list[dict[str, Any]]]
STAMP_US = 1_532_402_927_647_951
LIDAR_PLACE = poses.from_xyz_rpy((0.9, 0.0, 1.8), (0.0, 0.0, -math.pi / 2))
CAMERA_PLACE = poses.from_xyz_rpy((1.7, 0.0, 1.5)) @ OPTICAL


def placed(token: str, pose: np.ndarray, **more: Any) -> dict[str, Any]:
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return {"token": token, "translation": pose[:3, 3].tolist(), "rotation": [w, x, y, z], **more}


def ego(k: int) -> np.ndarray:
    return poses.from_xyz_rpy((400.0 + 5 * k, 1100.0, 0.0), (0.0, 0.0, 0.5))


def tables() -> Tables:
    """Two samples half a second apart, a car that drives ahead of the vehicle, and a still cone."""
    made: Tables = {
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
            placed("lidar", LIDAR_PLACE, sensor_token="lidar", camera_intrinsic=[]),
            placed(
                "front",
                CAMERA_PLACE,
                sensor_token="front",
                camera_intrinsic=[[100, 0, 32], [0, 100, 24], [0, 0, 1]],
            ),
            placed("radar", np.eye(4), sensor_token="radar", camera_intrinsic=[]),
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
            made["sample_data"].append(
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
            # 20 ms before, the vehicle was 0.2 m behind.
            moved = ego(k) @ poses.from_xyz_rpy((late * 1e-5, 0, 0))
            made["ego_pose"].append(placed(f"{sensor}{k}", moved))
        for kind, at, size in (
            ("car", (12 + 3 * k, 2, 0.8), [1.9, 4.6, 1.6]),
            ("cone", (8, -2, 0.5), [0.4, 0.4, 1.0]),
            ("dog", (6, 1, 0.3), [0.3, 0.9, 0.6]),
        ):
            pose = ego(k) @ poses.from_xyz_rpy(at, (0, 0, 0.2))
            made["sample_annotation"].append(
                placed(
                    f"{kind}{k}",
                    pose,
                    sample_token=f"s{k}",
                    instance_token=f"i_{kind}",
                    size=size,
                    visibility_token="4" if kind == "car" else "1",
                    attribute_tokens=["parked"] if kind == "car" else [],
                    num_lidar_pts=7 * k,
                    prev=f"{kind}{k - 1}" if k else "",
                    next="" if k or kind == "dog" else f"{kind}{k + 1}",
                )
            )
    return made


def write(root: Path, made: Tables, version: str = "v1.0-mini") -> Path:
    (root / version).mkdir(parents=True)
    for name, rows in made.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    for row in made["sample_data"]:
        path = root / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".bin":
            np.array([[0, 10, -1, 12, 3], [5, 5, 5, 5, 0]], np.float32).tofile(path)
        elif path.suffix == ".png":
            cv2.imwrite(str(path), np.full((48, 64, 3), (10, 20, 30), np.uint8))
    return root


def test_frames_with_known_answers(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, tables()))
    assert isinstance(data, NuScenes) and len(data) == 2
    assert set(data.rig.sensors) == {"lidar_top", "cam_front"}
    first, second = data
    assert first.stamp_ns == STAMP_US * 1000 and second.stamp_ns - first.stamp_ns == 500_000_000
    assert first.present == {"lidar_top", "cam_front"} and not first.missing
    # A point 10 m along the LiDAR's y is 10 m ahead of it.
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
    # The vehicle goes 5 m along the map's x in half a second, which its heading turns by 0.5.
    along = 10 * np.array([math.cos(0.5), -math.sin(0.5)])
    assert labels.velocities[0] == pytest.approx([along[0] + 6, along[1]], abs=1e-3)
    assert labels.velocities[1] == pytest.approx(along, abs=1e-3)
    assert np.isnan(labels.velocities[2]).all(), "it was seen once alone"
    assert data.attributes(0).tolist() == [1, -1, -1]
    assert np.array_equal(labels.track_ids, second.labels.track_ids)


def test_it_is_evaluated_with_its_attributes(tmp_path: Path) -> None:
    root, out = write(tmp_path / "data", tables()), tmp_path / "r.json"
    assert main(["evaluate", "detections", "--root", str(root), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["nuscenes"]
    # At first the car has no point on it, but is in sight; a cone is not among the classes.
    assert figures["labels"] == 2 and figures["by_class"]["car"]["labels"] == 2
    assert figures["aae"] == 1.0, "no detector here tells attributes"


def test_a_version_without_labels_and_several_versions(tmp_path: Path) -> None:
    made = tables()
    made["sample_annotation"] = []
    write(tmp_path, made, "v1.0-test")
    assert NuScenes(tmp_path)[0].labels is None
    write(tmp_path, tables(), "v1.0-mini")
    with pytest.raises(DatasetError, match=r"v1\.0-mini, v1\.0-test; give the path of one"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "v1.0-mini")[0].labels is not None


def broken(name: str, **changes: Any) -> Tables:
    made = tables()
    for row in made[name]:
        row.update(changes)
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (broken("sample", scene_token="none"), "do not fit together"),
        (broken("sample_data", calibrated_sensor_token="none"), "do not fit together"),
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
def test_broken_tables_are_named(made: Tables, words: str, tmp_path: Path) -> None:
    files = tables()
    write(tmp_path, files)
    for name, rows in made.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=words):
        NuScenes(tmp_path)[0]


def test_broken_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, tables())
    (tmp_path / "samples/CAM_FRONT/0.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0\.png: not an image"):
        NuScenes(tmp_path)[0]
    (tmp_path / "samples/LIDAR_TOP/1.pcd.bin").write_bytes(b"1234567")
    with pytest.raises(DatasetError, match=r"1\.pcd\.bin: not a number"):
        NuScenes(tmp_path)[1]
    (tmp_path / "v1.0-mini/category.json").write_text("{")
    with pytest.raises(DatasetError, match=r"category\.json: not a nuScenes table"):
        NuScenes(tmp_path)
    (tmp_path / "v1.0-mini/category.json").unlink()
    with pytest.raises(DatasetError, match=r"category\.json"):
        NuScenes(tmp_path)


def test_the_real_sample_in_tables_is_the_same_frame(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "nuscenes_frame"
    info = json.loads((folder / "frame.json").read_text())
    sample, names = info["data_list"][0], info["metainfo"]["categories"]
    map_from_base = rigid(sample["ego2global"])
    base_from_lidar = rigid(sample["lidar_points"]["lidar2ego"])
    made = tables()
    made |= {"sample_data": [], "ego_pose": [], "sensor": [], "calibrated_sensor": []}
    made |= {"sample_annotation": [], "instance": [], "sample": made["sample"][1:]}
    sides = {"LIDAR_TOP": (sample["lidar_points"]["lidar_path"], base_from_lidar, map_from_base)}
    for channel, entry in sample["images"].items():
        base_from_camera = rigid(entry["cam2ego"])
        # Where the vehicle was when that image was taken, by what lidar2cam says.
        then = base_from_lidar @ poses.inverse(rigid(entry["lidar2cam"]))
        then = map_from_base @ then @ poses.inverse(base_from_camera)
        sides[channel] = entry["img_path"], base_from_camera, then
    for channel, (name, place, then) in sides.items():
        kind = "lidar" if channel == "LIDAR_TOP" else "camera"
        made["sensor"].append({"token": channel, "channel": channel, "modality": kind})
        matrix = [] if kind == "lidar" else sample["images"][channel]["cam2img"]
        made["calibrated_sensor"].append(
            placed(channel, place, sensor_token=channel, camera_intrinsic=matrix)
        )
        made["ego_pose"].append(placed(channel, then))
        file = f"samples/{channel}/{name}"
        stamp = int(Path(name.split(".")[0]).name.rsplit("__", 1)[-1])
        made["sample_data"].append(
            {"token": channel, "sample_token": "s0", "ego_pose_token": channel, "timestamp": stamp,
             "calibrated_sensor_token": channel, "filename": file, "is_key_frame": True}
        )  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True)
        shutil.copy(folder / name, tmp_path / file)
    detection = {v: k for k, v in names.items()}
    made["category"] = [{"token": "car", "name": "vehicle.car"}, {"token": "no", "name": "animal"}]
    for k, told in enumerate(sample["instances"]):
        box = np.array(told["bbox_3d"])
        pose = poses.from_xyz_rpy(box[:3], (0, 0, box[6]))
        car = detection.get(told["bbox_label_3d"]) == "car"
        made["instance"].append({"token": str(k), "category_token": "car" if car else "no"})
        made["sample_annotation"].append(
            placed(str(k), map_from_base @ base_from_lidar @ pose, sample_token="s0", prev="",
                   next="", instance_token=str(k), size=box[[4, 3, 5]].tolist(),
                   visibility_token="4", attribute_tokens=[],
                   num_lidar_pts=told["num_lidar_pts"])
        )  # fmt: skip
    (tmp_path / "v1.0-mini").mkdir()
    for name, rows in made.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    mine, theirs = NuScenes(tmp_path)[0], NuScenesSample(folder)[0]
    assert mine.present == theirs.present and len(mine.cameras) == 6
    np.testing.assert_allclose(mine.points_in_base(), theirs.points_in_base(), atol=1e-3)
    for name in mine.cameras:
        np.testing.assert_allclose(
            mine.reference_from_sensor(name), theirs.reference_from_sensor(name), atol=1e-3
        )
        assert np.array_equal(mine.cameras[name].pixels, theirs.cameras[name].pixels)
        assert mine.cameras[name].stamp_ns == theirs.cameras[name].stamp_ns
    assert mine.labels is not None and theirs.labels is not None
    np.testing.assert_allclose(mine.labels.boxes[:, :6], theirs.labels.boxes[:, :6], atol=2e-3)
    turned = poses.wrap_angle(mine.labels.boxes[:, 6] - theirs.labels.boxes[:, 6])
    assert np.abs(turned).max() < 0.01
    car = CLASS_NAMES.index("car")
    assert np.array_equal(mine.labels.labels == car, theirs.labels.labels == car)


def rigid(values: Any) -> np.ndarray:
    """A pose whose rotation is one in float64 too."""
    pose = np.array(values, np.float64)
    return poses.from_quaternion(pose[:3, 3], Rotation.from_matrix(pose[:3, :3]).as_quat())
