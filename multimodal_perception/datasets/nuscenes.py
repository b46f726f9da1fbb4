"""One nuScenes sample (Caesar et al. 2020) as an mmdetection3d info file: frame.json beside its files.

Six cameras and LIDAR_TOP; labelled instances are given in the LiDAR's frame. base_link is nuScenes' ego
frame: on the ground, below the rear axle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.rig import Rig, Sensor

CLASSES = {
    "car": "car",
    "truck": "truck",
    "trailer": "truck",
    "bus": "bus",
    "construction_vehicle": "truck",
    "bicycle": "cyclist",
    "motorcycle": "cyclist",
    "pedestrian": "pedestrian",
    "traffic_cone": "cone",
    "barrier": "barrier",
}
LIDAR = "lidar_top"
# What is raised by files whose content is not what it should be.
BROKEN = (
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@contextmanager
def named(where: str) -> Iterator[None]:
    """What breaks on a file's content is a DatasetError that says where and why."""
    try:
        yield
    except BROKEN as error:
        raise DatasetError(f"{where}: {type(error).__name__}: {error}") from error


class NuScenesSample(Dataset):
    """The sample of one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / "frame.json"
        with named(f"{path}: not a nuScenes info file"):
            info = json.loads(path.read_text(encoding="utf-8"))
            self._names = {v: k for k, v in info["metainfo"]["categories"].items()}
            self._samples = list(info["data_list"])
            cameras = [name.lower() for name in self._samples[0]["images"]]
        self.name = f"nuscenes {self.root.name}"
        self.rig = nuscenes_rig(cameras)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one sample. Raises DatasetError, IndexError."""
        sample = self._samples[range(len(self))[index]]
        with named(f"{self.root / 'frame.json'}: sample {index}"):
            return self._read(sample)

    def _read(self, sample: Mapping[str, Any]) -> SensorFrame:
        stamp_ns = round(float(sample["timestamp"]) * NANOSECONDS)
        lidar = sample["lidar_points"]
        base_from_lidar = _rigid(lidar["lidar2ego"], "lidar2ego")
        sweep = read_sweep(self._inside(lidar["lidar_path"]), stamp_ns, int(lidar["num_pts_feats"]))
        cameras, models, extrinsics = {}, {}, {LIDAR: base_from_lidar}
        for key, entry in sample["images"].items():
            name = key.lower()
            cameras[name] = self._image(name, entry)
            height, width = cameras[name].pixels.shape[:2]
            models[name] = CameraModel(width, height, np.array(entry["cam2img"])[:3, :3])
            # lidar2cam holds the ego's motion between the two exposures; cam2ego does not.
            lidar_from_camera = poses.inverse(_rigid(entry["lidar2cam"], "lidar2cam"))
            extrinsics[name] = base_from_lidar @ lidar_from_camera
        frame = SensorFrame(
            stamp_ns,
            lidars={LIDAR: sweep},
            cameras=cameras,
            base_from_sensor=extrinsics,
            intrinsics=models,
            odom_from_base=_rigid(sample["ego2global"], "ego2global"),
            expected=frozenset(self.rig.sensors),
            own_vehicle=self.rig.own_vehicle,
        )
        return replace(frame, labels=self._labels(sample["instances"], frame, base_from_lidar))

    def _image(self, name: str, entry: Mapping[str, Any]) -> CameraImage:
        path = self._inside(entry["img_path"])
        pixels = read_image(path)
        # The stamp in microseconds is the last part of the file's name.
        stamp_ns = int(path.stem.rsplit("__", 1)[-1]) * 1000
        return CameraImage(name, stamp_ns, f"{name}_optical", pixels, "bgr8")

    def _labels(
        self, instances: list[Mapping[str, Any]], frame: SensorFrame, base_from_lidar: Any
    ) -> Boxes3D:
        boxes = np.array([i["bbox_3d"] for i in instances], np.float32).reshape(-1, 7)
        if not np.isfinite(boxes).all():
            raise ValueError("bbox_3d is not finite")
        known = [CLASSES.get(self._names.get(i["bbox_label_3d"], ""), "unknown") for i in instances]
        velocity = np.array([i["velocity"] for i in instances], np.float32).reshape(-1, 2)
        truth = Boxes3D(
            frame.stamp_ns,
            LIDAR,
            boxes,
            np.ones(len(boxes), np.float32),
            np.array([CLASS_NAMES.index(k) for k in known], np.int64),
            velocities=np.nan_to_num(velocity),
        ).transformed(base_from_lidar, frame.base_frame)
        counts = points_in_boxes(frame.points_in_base(), truth.boxes)
        return replace(truth, num_points=counts)

    def _inside(self, name: str) -> Path:
        path = self.root / name
        if Path(name).name != name or not path.is_file():
            raise DatasetError(f"{self.root}: no file {name!r}")
        return path


def read_sweep(path: Path, stamp_ns: int, features: int = 5) -> LidarSweep:
    """A .pcd.bin file of `features` float32 a point: x y z intensity and, of five, the ring.

    Points that are not finite are left out. Raises DatasetError.
    """
    values = np.fromfile(path, np.float32)
    if features < 4 or values.size == 0 or values.size % features or path.stat().st_size % 4:
        raise DatasetError(f"{path}: not a number of {features}-value points")
    points = values.reshape(-1, features)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise DatasetError(f"{path}: no point is finite")
    rings = np.clip(points[:, 4], 0, 65535).astype(np.uint16) if features > 4 else None
    return LidarSweep(LIDAR, stamp_ns, LIDAR, np.ascontiguousarray(points[:, :4]), rings=rings)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8, blue first. Raises DatasetError."""
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # the header announces more pixels than OpenCV allows
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path}: not an image that can be read")
    return np.asarray(pixels, np.uint8)


def nuscenes_rig(cameras: list[str]) -> Rig:
    """LIDAR_TOP and cameras by lower-case channel; extrinsics come with each frame."""
    sensors = {
        LIDAR: Sensor(LIDAR, Modality.LIDAR, f"/{LIDAR}/points", LIDAR, rate_hz=20.0),
    }
    for name in cameras:
        sensors[name] = Sensor(
            name,
            Modality.CAMERA,
            f"/{name}/image_raw",
            f"{name}_optical",
            rate_hz=12.0,
            tolerance_s=0.1,
            camera_info_topic=f"/{name}/camera_info",
        )
    return Rig("nuscenes", sensors, odom_frame="map", footprint=(4.1, 1.7), footprint_middle=1.4)


def _rigid(values: Any, name: str) -> NDArray[np.float64]:
    matrix = np.array(values, np.float64)
    if not poses.is_rigid(matrix):
        raise ValueError(f"{name} is not a rigid transform")
    return matrix
