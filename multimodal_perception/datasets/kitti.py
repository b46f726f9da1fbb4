"""KITTI's object benchmark (Geiger et al. 2012) in its own folder layout.

image_2/*.png, velodyne/*.bin, calib/*.txt, label_2/*.txt; only velodyne/ must be there. base_link is on
the ground below the LiDAR, which sits 1.73 m above it. KITTI has no stamps: frames are spaced at 10 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, CameraImage, LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig

LIDAR_HEIGHT = 1.73
FIRST_STAMP_NS = 1_317_000_000_000_000_000
PERIOD_NS = 100_000_000
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
    """A label file, DontCare regions with it.

    types: KITTI's names, N of them. boxes: (N, 7) float32 in base_link, zeros for DontCare. image_boxes:
    (N, 4) float64 left, top, right, bottom, pixels. truncation: (N,) float64, share out of the image.
    occlusion: (N,) int64, 0 in full sight, 1 partly and 2 largely hidden, 3 unknown; -1 for DontCare.
    """

    types: tuple[str, ...]
    boxes: NDArray[np.float32]
    image_boxes: NDArray[np.float64]
    truncation: NDArray[np.float64]
    occlusion: NDArray[np.int64]


class Kitti(Dataset):
    """Frames of one KITTI folder (training or testing), in the order of their names."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.name = f"kitti {self.root.name}"
        self.rig = load_rig(share_path("config", "rigs", "kitti.yaml"))
        self.stems = sorted(p.stem for p in (self.root / "velodyne").glob("*.bin"))
        if not self.stems:
            raise DatasetError(f"{self.root}: no velodyne/*.bin")
        if not (self.root / "calib").is_dir():
            self.rig = replace(self.rig, sensors={"lidar": self.rig.sensors["lidar"]})

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one frame. Raises DatasetError for a file that is not what KITTI says, IndexError."""
        stem = self.stems[range(len(self.stems))[index]]
        stamp_ns = FIRST_STAMP_NS + range(len(self.stems))[index] * PERIOD_NS
        points = read_velodyne(self.root / "velodyne" / f"{stem}.bin")
        sweep = LidarSweep("lidar", stamp_ns, "lidar", points)
        frame = SensorFrame(
            stamp_ns,
            lidars={"lidar": sweep},
            base_from_sensor={"lidar": BASE_FROM_LIDAR},
            expected=frozenset(self.rig.sensors),
            own_vehicle=self.rig.own_vehicle,
        )
        calibration_file = self.root / "calib" / f"{stem}.txt"
        if not calibration_file.exists():
            return frame
        calibration = read_calibration(calibration_file)
        return self._with_camera(self._with_labels(frame, stem, calibration), stem, calibration)

    def annotations(self, index: int) -> KittiLabels | None:
        """All that the label file of a frame says, None without. Raises DatasetError, IndexError."""
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
        try:
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:  # the header announces more pixels than OpenCV allows
            pixels = None
        if pixels is None:
            raise DatasetError(f"{path}: not an image that can be read")
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
        counts = points_in_boxes(frame.points_in_base(), boxes)
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
    """Points (N, 4) float32 of a .bin file, those not finite left out. Raises DatasetError."""
    try:
        values = np.fromfile(path, np.float32)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if values.size == 0 or values.size % 4 or path.stat().st_size % 16:
        raise DatasetError(f"{path}: {path.stat().st_size} bytes is not a number of 16-byte points")
    points = values.reshape(-1, 4)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise DatasetError(f"{path}: no point is finite")
    return points if finite.all() else points[finite]


def read_calibration(path: Path) -> dict[str, NDArray[np.float64]]:
    """Matrices of a calib file: P2 (3, 4), R0_rect (3, 3), Tr_velo_to_cam (3, 4). DatasetError."""
    shapes = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
    matrices = {}
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    for number, line in enumerate(lines, 1):
        key, _, rest = line.partition(":")
        if key not in shapes:
            continue
        try:
            matrix = np.array([float(v) for v in rest.split()]).reshape(shapes[key])
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: {key}: {error}") from error
        if not np.isfinite(matrix).all():
            raise DatasetError(f"{path}:{number}: {key} is not finite")
        matrices[key] = matrix
    missing = shapes.keys() - matrices.keys()
    if missing:
        raise DatasetError(f"{path}: missing {', '.join(sorted(missing))}")
    focal = matrices["P2"][(0, 1), (0, 1)]
    if not (focal > 0).all() or not np.allclose(matrices["P2"][2, :3], (0, 0, 1)):
        raise DatasetError(f"{path}: P2 is no camera's projection")
    if not poses.is_rigid(rect_from_lidar(matrices), 0.01):
        raise DatasetError(f"{path}: R0_rect and Tr_velo_to_cam are not rotations")
    return matrices


def rect_from_lidar(calibration: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rectified camera 0 from LiDAR (4, 4)."""
    rotation, transform = np.eye(4), np.eye(4)
    rotation[:3, :3] = calibration["R0_rect"]
    transform[:3] = calibration["Tr_velo_to_cam"]
    return rotation @ transform


def camera_2(
    calibration: dict[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """optical_from_lidar (4, 4) and matrix (3, 3) of the left colour camera.

    P2 = K [I | t]: its last column is the camera's place beside camera 0, K t.
    """
    matrix = calibration["P2"][:, :3]
    shift = np.eye(4)
    shift[:3, 3] = np.linalg.solve(matrix, calibration["P2"][:, 3])
    return shift @ rect_from_lidar(calibration), matrix


def _base_from_rect(calibration: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return BASE_FROM_LIDAR @ poses.inverse(rect_from_lidar(calibration))


def read_labels(
    path: Path, base_from_rect: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (N, 7) in base_link and labels (N,) of a label file; DontCare left out. DatasetError."""
    told = read_annotations(path, base_from_rect)
    kept = np.array([t != DONT_CARE for t in told.types], bool)
    labels = [CLASS_NAMES.index(CLASSES[t]) for t in told.types if t != DONT_CARE]
    return told.boxes[kept], np.array(labels, np.int64)


def read_annotations(path: Path, base_from_rect: NDArray[np.float64]) -> KittiLabels:
    """All that a label file says. Raises DatasetError that names the line."""
    types: list[str] = []
    rows: list[list[float]] = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if words[0] not in (*CLASSES, DONT_CARE) or len(words) not in (15, 16):
            raise DatasetError(f"{path}:{number}: not a KITTI label: {line[:60]!r}")
        try:
            row = [float(v) for v in words[1:15]]
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: {error}") from error
        if not np.isfinite(row).all():
            raise DatasetError(f"{path}:{number}: not finite")
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
    """Box (7,) of height, width, length, x, y, z of the bottom's middle, and rotation_y."""
    height, width, length, x, y, z, turn = row
    centre = poses.transform_points(base_from_rect, np.array([x, y - height / 2, z]))
    # rotation_y turns x right towards -z forward; its axis is the vehicle's, upside down.
    heading = base_from_rect[:3, :3] @ (np.cos(turn), 0.0, -np.sin(turn))
    return np.array([*centre, length, width, height, np.arctan2(heading[1], heading[0])])
