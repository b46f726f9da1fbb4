"""Reader of nuScenes samples (Caesar et al. 2020) from an mmdetection3d info file.

The folder contains frame.json, the six camera images and the sweep of LIDAR_TOP. The labelled instances
are given in the LiDAR frame. base_link is the ego frame of nuScenes: on the ground, below the rear axle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.file_limits import read_colour_image, read_floats, read_json
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.pointcloud.returns import find_returns
from multimodal_perception.rig import Rig, Sensor

# Class names of the nuScenes detection task to the class names of this package.
CLASSES = {
    "car": "car",
    "truck": "truck",
    "trailer": "trailer",
    "bus": "bus",
    "construction_vehicle": "truck",
    "bicycle": "cyclist",
    "motorcycle": "motorcyclist",
    "pedestrian": "pedestrian",
    "traffic_cone": "cone",
    "barrier": "barrier",
}
LIDAR = "lidar_top"
# Exceptions that malformed file content can raise.
CONTENT_ERRORS = (
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@contextmanager
def dataset_errors(source: str) -> Iterator[None]:
    """Convert exceptions caused by file content into a DatasetError that names the source."""
    try:
        yield
    except CONTENT_ERRORS as error:
        raise DatasetError(f"{source}: {type(error).__name__}: {error}") from error


class NuScenesSampleDataset(Dataset):
    """The samples of one frame.json; usually it contains one."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / "frame.json"
        try:
            info = read_json(path)
        except DatasetError as error:
            raise DatasetError(f"{path}: not a nuScenes info file ({error})") from error
        with dataset_errors(f"{path}: not a nuScenes info file"):
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
        with dataset_errors(f"{self.root / 'frame.json'}: sample {index}"):
            return self._read(sample)

    def _read(self, sample: Mapping[str, Any]) -> SensorFrame:
        stamp_ns = round(float(sample["timestamp"]) * NANOSECONDS_PER_SECOND)
        lidar = sample["lidar_points"]
        base_from_lidar = _rigid(lidar["lidar2ego"], "lidar2ego")
        path = self._file_path(lidar["lidar_path"])
        sweep = read_sweep(path, stamp_ns, int(lidar["num_pts_feats"]))
        cameras, models, extrinsics = {}, {}, {LIDAR: base_from_lidar}
        for key, entry in sample["images"].items():
            name = key.lower()
            cameras[name] = self._image(name, entry)
            height, width = cameras[name].pixels.shape[:2]
            models[name] = CameraModel(width, height, np.array(entry["cam2img"])[:3, :3])
            # lidar2cam includes the ego motion between sweep and exposure; cam2ego does not.
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
            vehicle_footprint=self.rig.vehicle_footprint,
            odom_frame=self.rig.odom_frame,
            ground_z=self.rig.ground_z,
        )
        return replace(frame, labels=self._labels(sample["instances"], frame, base_from_lidar))

    def _image(self, name: str, entry: Mapping[str, Any]) -> CameraImage:
        path = self._file_path(entry["img_path"])
        pixels = read_image(path)
        # The last part of the file name is the stamp in microseconds.
        stamp_ns = int(path.stem.rsplit("__", 1)[-1]) * 1000
        return CameraImage(name, stamp_ns, f"{name}_optical", pixels, "bgr8")

    def _labels(
        self, instances: list[Mapping[str, Any]], frame: SensorFrame, base_from_lidar: Any
    ) -> Boxes3D:
        boxes = np.array([i["bbox_3d"] for i in instances], np.float32).reshape(-1, 7)
        if not np.isfinite(boxes).all():
            raise ValueError("instances: bbox_3d: expected finite numbers")
        names = [CLASSES.get(self._names.get(i["bbox_label_3d"], ""), "unknown") for i in instances]
        velocity = np.array([i["velocity"] for i in instances], np.float32).reshape(-1, 2)
        truth = Boxes3D(
            frame.stamp_ns,
            LIDAR,
            boxes,
            np.ones(len(boxes), np.float32),
            np.array([CLASS_NAMES.index(n) for n in names], np.int64),
            velocities=np.nan_to_num(velocity),
        ).transformed(base_from_lidar, frame.base_frame)
        counts = count_points_in_boxes(frame.points_in_base(), truth.boxes)
        return replace(truth, num_points=counts)

    def _file_path(self, name: str) -> Path:
        """The path of a file in the folder. Raises DatasetError for a path outside of it."""
        path = self.root / name
        if Path(name).name != name or not path.is_file():
            raise DatasetError(f"{self.root}: no file {name!r} in this folder")
        return path


def read_sweep(path: Path, stamp_ns: int, features: int = 5) -> LidarSweep:
    """Read a .pcd.bin file with `features` float32 values per point.

    The values are x, y, z, intensity and, if there are at least five, the ring. Points with non-finite
    values and those at the sensor, which are missing returns, are removed, as from the messages of a
    bag. Raises DatasetError.
    """
    values = read_floats(path)
    if features < 4 or values.size == 0 or values.size % features:
        raise DatasetError(
            f"{path}: the file size does not fit {features} float32 values per point (allowed: 4 or "
            "more values)"
        )
    points = values.reshape(-1, features)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise DatasetError(f"{path}: all points have NaN or infinite values")
    limits = Sensor(LIDAR, Modality.LIDAR, LIDAR, LIDAR)  # those of the messages of a bag
    points = points[find_returns(points, limits.min_range, limits.max_range).keep]
    if not len(points):
        raise DatasetError(f"{path}: all points are at the sensor, as missing returns")
    rings = np.clip(points[:, 4], 0, 65535).astype(np.uint16) if features > 4 else None
    return LidarSweep(LIDAR, stamp_ns, LIDAR, np.ascontiguousarray(points[:, :4]), rings=rings)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 in BGR order. Raises DatasetError."""
    return read_colour_image(path)


def nuscenes_rig(cameras: list[str]) -> Rig:
    """A rig of LIDAR_TOP and cameras named by lower-case channel. Each frame has the extrinsics."""
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
    return Rig("nuscenes", sensors, odom_frame="map", footprint=(4.1, 1.7), footprint_offset_x=1.4)


def _rigid(values: Any, name: str) -> NDArray[np.float64]:
    matrix = np.array(values, np.float64)
    if not poses.is_rigid(matrix):
        raise ValueError(f"{name}: expected a rigid 4x4 transform")
    return matrix
