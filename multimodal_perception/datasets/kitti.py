"""Reader of the KITTI object benchmark (Geiger et al. 2012) in its original folder layout.

The folders are image_2/*.png, velodyne/*.bin, calib/*.txt and label_2/*.txt; only velodyne/ is required.
base_link is on the ground below the LiDAR, which is mounted at a height of 1.73 m. The benchmark has no
time stamps, so the frames get stamps at 10 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.file_limits import (
    read_colour_image,
    read_floats,
    read_text_lines,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, CameraImage, LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig

LIDAR_HEIGHT = 1.73
FIRST_STAMP_NS = 1_317_000_000_000_000_000
PERIOD_NS = 100_000_000
# KITTI's object types to the class names of this package.
CLASSES = {
    "Car": "car",
    "Van": "van",
    "Truck": "truck",
    "Tram": "bus",
    "Pedestrian": "pedestrian",
    "Person_sitting": "pedestrian",
    "Cyclist": "cyclist",
    "Misc": "unknown",
}
DONT_CARE = "DontCare"
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.0, 0.0, LIDAR_HEIGHT))


@dataclass(frozen=True)
class KittiLabels:
    """The content of a label file, including its DontCare regions.

    types: N type names of KITTI. boxes: (N, 7) float32 in base_link, zeros for DontCare. image_boxes:
    (N, 4) float64 left, top, right, bottom, pixels. truncation: (N,) float64, fraction outside the
    image. occlusion: (N,) int64, 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown;
    -1 for DontCare.
    """

    types: tuple[str, ...]
    boxes: NDArray[np.float32]
    image_boxes: NDArray[np.float64]
    truncation: NDArray[np.float64]
    occlusion: NDArray[np.int64]


class KittiDataset(Dataset):
    """Frames of one KITTI folder (training or testing), in the order of their names."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.name = f"kitti {self.root.name}"
        self.rig = load_rig(share_path("config", "rigs", "kitti.yaml"))
        self.stems = sorted(p.stem for p in (self.root / "velodyne").glob("*.bin"))
        if not self.stems:
            raise DatasetError(f"{self.root}: no velodyne/*.bin; expected a KITTI object folder")
        if not (self.root / "calib").is_dir():
            self.rig = replace(self.rig, sensors={"lidar": self.rig.sensors["lidar"]})

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one frame. Raises DatasetError if a file is not in KITTI's format, IndexError."""
        stem = self.stems[range(len(self.stems))[index]]
        stamp_ns = FIRST_STAMP_NS + range(len(self.stems))[index] * PERIOD_NS
        points = read_velodyne(self.root / "velodyne" / f"{stem}.bin")
        sweep = LidarSweep("lidar", stamp_ns, "lidar", points)
        frame = SensorFrame(
            stamp_ns,
            lidars={"lidar": sweep},
            base_from_sensor={"lidar": BASE_FROM_LIDAR},
            expected=frozenset(self.rig.sensors),
            vehicle_footprint=self.rig.vehicle_footprint,
            odom_frame=self.rig.odom_frame,
            ground_z=self.rig.ground_z,
        )
        calibration_file = self.root / "calib" / f"{stem}.txt"
        if not calibration_file.exists():
            return frame
        calibration = read_calibration(calibration_file)
        return self._with_camera(self._with_labels(frame, stem, calibration), stem, calibration)

    def annotations(self, index: int) -> KittiLabels | None:
        """The label file of a frame, or None if there is none. Raises DatasetError, IndexError."""
        stem = self.stems[range(len(self.stems))[index]]
        path, calibration_file = (
            self.root / folder / f"{stem}.txt" for folder in ("label_2", "calib")
        )
        if not path.exists() or not calibration_file.exists():
            return None
        return read_annotations(path, _base_from_rect(read_calibration(calibration_file)))

    def _with_camera(
        self, frame: SensorFrame, stem: str, calibration: dict[str, NDArray[np.float64]]
    ) -> SensorFrame:
        paths = [self.root / "image_2" / f"{stem}{suffix}" for suffix in (".png", ".jpg")]
        path = next((p for p in paths if p.exists()), None)
        if path is None:
            return frame
        pixels = read_colour_image(path)
        height, width = pixels.shape[:2]
        optical_from_lidar, matrix = camera_2(calibration)
        pose = BASE_FROM_LIDAR @ poses.inverse(optical_from_lidar)
        image = CameraImage("camera", frame.stamp_ns, "camera_optical", pixels, "bgr8")
        return replace(
            frame,
            cameras={"camera": image},
            base_from_sensor={**frame.base_from_sensor, "camera": pose},
            intrinsics={"camera": CameraModel(width, height, matrix)},
        )

    def _with_labels(
        self, frame: SensorFrame, stem: str, calibration: dict[str, NDArray[np.float64]]
    ) -> SensorFrame:
        path = self.root / "label_2" / f"{stem}.txt"
        if not path.exists():
            return frame
        boxes, labels = read_labels(path, _base_from_rect(calibration))
        counts = count_points_in_boxes(frame.points_in_base(), boxes)
        truth = Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            boxes,
            np.ones(len(boxes), np.float32),
            labels,
            num_points=counts,
        )
        return replace(frame, labels=truth)


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """Points (N, 4) float32 x, y, z, intensity of a .bin file, without non-finite points.

    Raises DatasetError.
    """
    values = read_floats(path)
    if values.size == 0 or values.size % 4:
        raise DatasetError(
            f"{path}: the size is {values.nbytes} bytes; expected a positive multiple of 16 "
            "(four float32 values per point)"
        )
    points = values.reshape(-1, 4)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise DatasetError(f"{path}: all points have NaN or infinite values")
    return points if finite.all() else points[finite]


def read_calibration(path: Path) -> dict[str, NDArray[np.float64]]:
    """The matrices P2 (3, 4), R0_rect (3, 3) and Tr_velo_to_cam (3, 4) of a calibration file.

    Raises DatasetError.
    """
    shapes = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
    matrices = {}
    lines = read_text_lines(path)
    for number, line in enumerate(lines, 1):
        key, _, rest = line.partition(":")
        if key not in shapes:
            continue
        try:
            matrix = np.array([float(v) for v in rest.split()]).reshape(shapes[key])
        except ValueError as error:
            rows, columns = shapes[key]
            raise DatasetError(
                f"{path}:{number}: {key}: expected {rows * columns} numbers ({error})"
            ) from error
        if not np.isfinite(matrix).all():
            raise DatasetError(f"{path}:{number}: {key}: expected finite numbers")
        matrices[key] = matrix
    missing = shapes.keys() - matrices.keys()
    if missing:
        raise DatasetError(f"{path}: missing lines: {', '.join(sorted(missing))}")
    focal = matrices["P2"][(0, 1), (0, 1)]
    if not (focal > 0).all() or not np.allclose(matrices["P2"][2, :3], (0, 0, 1)):
        raise DatasetError(
            f"{path}: P2: expected a camera projection with positive focal lengths and the third "
            "row 0 0 1"
        )
    if not poses.is_rigid(rect_from_lidar(matrices), 0.01):
        raise DatasetError(f"{path}: R0_rect, Tr_velo_to_cam: expected rotation matrices")
    return matrices


def rect_from_lidar(calibration: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The transform (4, 4) from the LiDAR frame to the rectified frame of camera 0."""
    rotation, transform = np.eye(4), np.eye(4)
    rotation[:3, :3] = calibration["R0_rect"]
    transform[:3] = calibration["Tr_velo_to_cam"]
    return rotation @ transform


def camera_2(
    calibration: dict[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """optical_from_lidar (4, 4) and intrinsic matrix (3, 3) of camera 2, the left colour camera.

    P2 = K [I | t], where t is the translation from camera 0 to camera 2; its last column is K t.
    """
    matrix = calibration["P2"][:, :3]
    optical_from_rect = np.eye(4)
    optical_from_rect[:3, 3] = np.linalg.solve(matrix, calibration["P2"][:, 3])
    return optical_from_rect @ rect_from_lidar(calibration), matrix


def _base_from_rect(calibration: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return BASE_FROM_LIDAR @ poses.inverse(rect_from_lidar(calibration))


def read_labels(
    path: Path, base_from_rect: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (N, 7) in base_link and class indices (N,) of a label file, without DontCare regions.

    Raises DatasetError.
    """
    annotations = read_annotations(path, base_from_rect)
    kept = np.array([t != DONT_CARE for t in annotations.types], bool)
    labels = [CLASS_NAMES.index(CLASSES[t]) for t in annotations.types if t != DONT_CARE]
    return annotations.boxes[kept], np.array(labels, np.int64)


def read_annotations(path: Path, base_from_rect: NDArray[np.float64]) -> KittiLabels:
    """Read a label file. Raises DatasetError, which names the line."""
    types: list[str] = []
    rows: list[list[float]] = []
    lines = read_text_lines(path)
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if words[0] not in (*CLASSES, DONT_CARE) or len(words) not in (15, 16):
            types_allowed = ", ".join((*CLASSES, DONT_CARE))
            raise DatasetError(
                f"{path}:{number}: expected one of {types_allowed} and 14 or 15 numbers; "
                f"got {line[:60]!r}"
            )
        try:
            row = [float(v) for v in words[1:15]]
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: expected numbers ({error})") from error
        if not np.isfinite(row).all():
            raise DatasetError(f"{path}:{number}: expected finite numbers")
        types.append(words[0])
        rows.append(row)
    values = np.array(rows, np.float64).reshape(-1, 14)
    boxes = [
        np.zeros(7) if name == DONT_CARE else _box(row[7:], base_from_rect)
        for name, row in zip(types, values, strict=True)
    ]
    return KittiLabels(
        tuple(types),
        np.array(boxes, np.float32).reshape(-1, 7),
        values[:, 3:7],
        values[:, 0],
        values[:, 1].astype(np.int64),
    )


def _box(row: NDArray[np.float64], base_from_rect: NDArray[np.float64]) -> NDArray[np.float64]:
    """Box (7,) from height, width, length, x, y, z of the bottom centre, and rotation_y."""
    height, width, length, x, y, z, rotation_y = row
    centre = poses.transform_points(base_from_rect, np.array([x, y - height / 2, z]))
    # rotation_y is the angle about the camera's y axis, which points down: at 0 the object faces
    # along the camera's x axis (right), at -pi/2 along its z axis (forward).
    heading = base_from_rect[:3, :3] @ (np.cos(rotation_y), 0.0, -np.sin(rotation_y))
    return np.array([*centre, length, width, height, np.arctan2(heading[1], heading[0])])
