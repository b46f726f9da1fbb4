"""Reader of nuScenes v1.0 (Caesar et al. 2020) in its original layout: samples/ and v1.0-*/*.json.

A frame is a sample: its LIDAR_TOP sweep and camera images, in the ego frame at the stamp of the sweep.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.file_limits import read_json
from multimodal_perception.datasets.nuscenes import (
    CLASSES,
    LIDAR,
    dataset_errors,
    nuscenes_rig,
    read_image,
    read_sweep,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, CameraImage, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

Row = dict[str, Any]
NS_PER_US = 1000
# Categories of nuScenes to the class names of its detection task (keys of CLASSES). All others are
# read as "unknown".
CATEGORIES = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.construction": "construction_vehicle",
    "vehicle.bicycle": "bicycle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
TABLES = (
    "sample_data",
    "ego_pose",
    "calibrated_sensor",
    "sensor",
    "instance",
    "category",
    "sample_annotation",
    "visibility",
    "attribute",
)
# Visible fraction of an object by visibility level: the centre of the level's range.
VISIBILITY = {"v0-40": 0.2, "v40-60": 0.5, "v60-80": 0.7, "v80-100": 0.9}
# A velocity is computed from two annotations within this time, or twice this time if one precedes
# and the other follows the annotation (as the devkit does).
MAX_VELOCITY_INTERVAL_US = 1_500_000


def tables_folder(path: Path) -> Path | None:
    """The folder with the tables: `path` or its only v1.0-* subfolder; None if there is none.

    Raises DatasetError if there are several subfolders.
    """
    if (path / "sample.json").is_file():
        return path
    folders = sorted(p.parent for p in path.glob("v1.0-*/sample.json"))
    if len(folders) > 1:
        names = ", ".join(p.name for p in folders)
        raise DatasetError(f"{path}: contains {names}; give the path of one of them")
    return folders[0] if folders else None


class NuScenesDataset(Dataset):
    """The samples of one version, ordered by scene and time; with labels if it has annotations."""

    def __init__(self, root: str | Path) -> None:
        """root: the folder of the data set, or one of its v1.0-* folders. Raises DatasetError."""
        folder = tables_folder(Path(root))
        if folder is None:
            raise DatasetError(f"{root}: no v1.0-*/sample.json in this folder")
        self.folder, self.root = folder, folder.parent
        self.name = f"nuscenes {folder.name}"
        self._tables = {name: self._table(name) for name in TABLES}
        with dataset_errors(f"{folder}: inconsistent tables"):
            scenes = {row["token"]: k for k, row in enumerate(self._rows("scene"))}
            self._samples = sorted(
                self._rows("sample"), key=lambda s: (scenes[s["scene_token"]], s["timestamp"])
            )
            self._times_us = {s["token"]: int(s["timestamp"]) for s in self._samples}
            self._keyframes, self._annotations = self._by_sample()
            self._attributes = {token: k for k, token in enumerate(self._tables["attribute"])}
            self._tracks = {token: k for k, token in enumerate(self._tables["instance"])}
            cameras = {c.lower() for data in self._keyframes.values() for c in data} - {LIDAR}
        if not self._samples:
            raise DatasetError(f"{folder / 'sample.json'}: no samples")
        self.rig = nuscenes_rig(sorted(cameras))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one sample. Raises DatasetError, IndexError."""
        sample = self._samples[range(len(self))[index]]
        with dataset_errors(f"{self.folder}: sample {index}"):
            return self._read(sample)

    def attributes(self, index: int) -> NDArray[np.int64]:
        """Index (M,) into the attribute table of the first attribute of each label, -1 if none.

        Raises DatasetError, IndexError.
        """
        sample = self._samples[range(len(self))[index]]
        with dataset_errors(f"{self.folder}: sample {index}: attributes"):
            tokens = [a["attribute_tokens"][:1] for a in self._annotations[sample["token"]]]
            return np.array([self._attributes[t[0]] if t else -1 for t in tokens], np.int64)

    def _rows(self, name: str) -> list[Row]:
        path = self.folder / f"{name}.json"
        try:
            rows = read_json(path)
        except DatasetError as error:
            raise DatasetError(f"{path}: not a nuScenes table ({error})") from error
        if not isinstance(rows, list) or not all(
            isinstance(r, dict) and isinstance(r.get("token"), str) for r in rows
        ):
            raise DatasetError(
                f"{path}: not a nuScenes table (expected a list of objects with a text as token)"
            )
        return rows

    def _table(self, name: str) -> dict[str, Row]:
        return {row["token"]: row for row in self._rows(name)}

    def _by_sample(self) -> tuple[dict[str, dict[str, Row]], dict[str, list[Row]]]:
        """Key frames of LIDAR_TOP and the cameras by sample and channel; annotations by sample."""
        keyframes: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in self._tables["sample_data"].values():
            sensor = self._tables["sensor"][self._calibrated_sensor(row)["sensor_token"]]
            channel = sensor["channel"].lower()
            if row["is_key_frame"] and (channel == LIDAR or sensor["modality"] == "camera"):
                keyframes[row["sample_token"]][channel] = row
        annotations: dict[str, list[Row]] = defaultdict(list)
        for row in self._tables["sample_annotation"].values():
            annotations[row["sample_token"]].append(row)
        return keyframes, annotations

    def _calibrated_sensor(self, data: Row) -> Row:
        return self._tables["calibrated_sensor"][data["calibrated_sensor_token"]]

    def _read(self, sample: Row) -> SensorFrame:
        data = self._keyframes[sample["token"]]
        if not data:
            raise ValueError("sample_data: no key frame of LIDAR_TOP or of a camera")
        reference = data.get(LIDAR) or next(iter(data.values()))
        map_from_base = _pose(self._tables["ego_pose"][reference["ego_pose_token"]])
        base_from_map = poses.inverse(map_from_base)
        stamp_ns = int(reference["timestamp"]) * NS_PER_US
        lidars, cameras, models, extrinsics, motions = {}, {}, {}, {}, {}
        for name, row in data.items():
            calibrated_sensor = self._calibrated_sensor(row)
            extrinsics[name] = _pose(calibrated_sensor)
            motions[name] = base_from_map @ _pose(self._tables["ego_pose"][row["ego_pose_token"]])
            sensor_ns, path = int(row["timestamp"]) * NS_PER_US, self._file_path(row["filename"])
            if name == LIDAR:
                lidars[name] = read_sweep(path, sensor_ns)
                continue
            pixels = read_image(path)
            cameras[name] = CameraImage(name, sensor_ns, f"{name}_optical", pixels, "bgr8")
            matrix = np.array(calibrated_sensor["camera_intrinsic"], np.float64)
            models[name] = CameraModel(pixels.shape[1], pixels.shape[0], matrix)
        frame = SensorFrame(
            stamp_ns,
            lidars=lidars,
            cameras=cameras,
            base_from_sensor=extrinsics,
            intrinsics=models,
            reference_from_base=motions,
            odom_from_base=map_from_base,
            expected=frozenset(self.rig.sensors),
            vehicle_footprint=self.rig.vehicle_footprint,
            odom_frame=self.rig.odom_frame,
            ground_z=self.rig.ground_z,
        )
        if not self._tables["sample_annotation"]:  # versions such as v1.0-test have no labels
            return frame
        return replace(frame, labels=self._labels(sample, stamp_ns, base_from_map))

    def _labels(self, sample: Row, stamp_ns: int, base_from_map: NDArray[np.float64]) -> Boxes3D:
        rows = self._annotations[sample["token"]]
        boxes = np.zeros((len(rows), 7))
        for box, row in zip(boxes, rows, strict=True):
            pose = base_from_map @ _pose(row)
            width, length, height = row["size"]
            box[:] = (*pose[:3, 3], length, width, height, poses.to_yaw(pose))
        if not np.isfinite(boxes).all():
            raise ValueError("sample_annotation: expected finite numbers")
        velocities = np.array([self._velocity(row) for row in rows]).reshape(-1, 3)
        levels = [self._tables["visibility"].get(r["visibility_token"], {}) for r in rows]
        visibility = [VISIBILITY.get(str(level.get("level")), 1.0) for level in levels]
        return Boxes3D(
            stamp_ns,
            "base_link",
            boxes.astype(np.float32),
            np.ones(len(rows), np.float32),
            np.array([self._class(row) for row in rows], np.int64),
            velocities=(velocities @ base_from_map[:3, :3].T)[:, :2].astype(np.float32),
            track_ids=np.array([self._tracks[r["instance_token"]] for r in rows], np.int64),
            num_points=np.array([int(r["num_lidar_pts"]) for r in rows], np.int64),
            visibility=np.array(visibility, np.float32),
        )

    def _class(self, row: Row) -> int:
        instance = self._tables["instance"][row["instance_token"]]
        category = self._tables["category"][instance["category_token"]]["name"]
        return CLASS_NAMES.index(CLASSES.get(CATEGORIES.get(category, ""), "unknown"))

    def _velocity(self, row: Row) -> NDArray[np.float64]:
        """Velocity (3,) in the map frame, m/s, from the previous and next annotations, or NaN."""
        table = self._tables["sample_annotation"]
        before, after = table.get(row["prev"], row), table.get(row["next"], row)
        first_us, last_us = (self._times_us[r["sample_token"]] for r in (before, after))
        both_sides = before is not row and after is not row
        max_interval_us = MAX_VELOCITY_INTERVAL_US * (2 if both_sides else 1)
        if before is after or not 0 < last_us - first_us <= max_interval_us:
            return np.full(3, np.nan)
        displacement = np.subtract(after["translation"], before["translation"])
        return np.asarray(displacement, np.float64) / (1e-6 * (last_us - first_us))

    def _file_path(self, name: str) -> Path:
        """The path of a file in the data set. Raises DatasetError for a path outside of it."""
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise DatasetError(f"{self.root}: no file {name!r} in this folder")
        return path


def _pose(row: Row) -> NDArray[np.float64]:
    """Pose (4, 4) from the translation and the rotation (quaternion w x y z) of a row."""
    w, x, y, z = row["rotation"]
    return poses.from_quaternion(row["translation"], (x, y, z, w))
