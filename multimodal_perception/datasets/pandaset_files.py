"""Files of a PandaSet sequence: names, poses, times and intrinsics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.file_limits import read_json
from multimodal_perception.datasets.nuscenes import dataset_errors
from multimodal_perception.geometry import poses

SUFFIXES = (".pkl.gz", ".pkl")
MAX_JSON_BYTES = 64 << 20
MAX_SEQUENCES, MAX_CAMERAS, MAX_FRAMES = 10_000, 32, 100_000
MAX_COORDINATE = 1e7


@dataclass(frozen=True)
class RecordedCamera:
    """Times and world poses of a camera's images, and its model without the image size."""

    folder: Path
    stamps_ns: NDArray[np.int64]
    world_from_camera: NDArray[np.float64]
    matrix: NDArray[np.float64]


def sequence_folders(path: Path) -> list[Path]:
    """The sequences of a folder: itself, or its subfolders that contain a folder lidar/, sorted."""
    if _is_sequence(path):
        return [path]
    try:
        folders = sorted(p for p in path.iterdir() if p.is_dir())[:MAX_SEQUENCES]
    except OSError:
        return []
    return [p for p in folders if _is_sequence(p)]


def _is_sequence(path: Path) -> bool:
    return (path / "lidar" / "poses.json").is_file() and any(
        True for suffix in SUFFIXES for _ in (path / "lidar").glob(f"*{suffix}")
    )


def open_cameras(root: Path) -> dict[str, RecordedCamera]:
    """Cameras of a sequence by name. Raises DatasetError."""
    folder = root / "camera"
    if not folder.is_dir():
        return {}
    names = sorted(p.name for p in folder.iterdir() if (p / "intrinsics.json").exists())
    if len(names) > MAX_CAMERAS:
        raise DatasetError(f"{folder}: more than {MAX_CAMERAS} cameras")
    cameras = {}
    for name in names:
        if not name.isidentifier():
            raise DatasetError(
                f"{folder / name}: the name of a camera consists of letters, digits and _"
            )
        world_from_camera, stamps = read_poses(folder / name)
        path = folder / name / "intrinsics.json"
        content = read_json(path, MAX_JSON_BYTES)
        with dataset_errors(f"{path}: expected fx, fy, cx, cy"):
            fx, fy, cx, cy = (float(content[key]) for key in ("fx", "fy", "cx", "cy"))
            if not np.isfinite([fx, fy, cx, cy]).all() or min(fx, fy) <= 0.0:
                raise ValueError("focal lengths must be positive")
        matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        cameras[name] = RecordedCamera(folder / name, stamps, world_from_camera, matrix)
    return cameras


def numbered_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Data files of a folder in the order of their names; a frame that has two files is an error."""
    files = sorted(p for s in suffixes for p in folder.glob(f"*{s}"))
    stems = [frame_stem(p) for p in files]
    repeated = {s for s in stems if stems.count(s) > 1} if len(set(stems)) < len(stems) else set()
    if repeated:
        raise DatasetError(f"{folder}: two files of frame {min(repeated)}")
    return sorted(files, key=frame_stem)


def frame_stem(path: Path) -> str:
    return path.name.split(".")[0]


def match_rows(files: list[Path], count: int, folder: Path) -> NDArray[np.int64]:
    """Row of each file in the lists of poses and times.

    A complete sequence has one row for each file. Of a part of a sequence, the number in the name of a
    file is its row.
    """
    if len(files) == count:
        return np.arange(count)
    rows = [
        int(frame_stem(p)) if frame_stem(p).isascii() and frame_stem(p).isdigit() else -1
        for p in files
    ]
    if not all(0 <= r < count for r in rows) or len(set(rows)) < len(rows):
        raise DatasetError(
            f"{folder}: {len(files)} frames, but {count} poses; files must then be numbered below "
            f"{count}"
        )
    return np.array(rows, np.int64)


def read_poses(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Poses (N, 4, 4) in the world frame, and times (N,) in nanoseconds, of a sensor."""
    path, times_path = folder / "poses.json", folder / "timestamps.json"
    rows, times = read_json(path, MAX_JSON_BYTES), read_json(times_path, MAX_JSON_BYTES)
    if not isinstance(rows, list) or not isinstance(times, list) or len(rows) != len(times):
        raise DatasetError(
            f"{path}: expected a list with one pose for each time in {times_path.name}"
        )
    if not 0 < len(rows) <= MAX_FRAMES:
        raise DatasetError(f"{path}: {len(rows)} poses; allowed: 1 to {MAX_FRAMES}")
    with dataset_errors(f"{path}: expected position x, y, z and heading w, x, y, z"):
        matrices = np.array([_pose(row) for row in rows])
    with dataset_errors(f"{times_path}: expected times in seconds"):
        seconds = [float(t) for t in times]
        if not all(0.0 <= t < 9e9 for t in seconds):
            raise ValueError("times must be seconds since 1970")
        # The times are microseconds; a float64 of seconds since 1970 has steps of 0.2 microseconds.
        stamps = np.array([round(t * 1e6) * 1000 for t in seconds], np.int64)
    if (np.diff(stamps) <= 0).any():
        raise DatasetError(f"{times_path}: times must increase")
    return matrices, stamps


def _pose(row: Any) -> NDArray[np.float64]:
    position = [float(row["position"][k]) for k in "xyz"]
    w, x, y, z = (float(row["heading"][k]) for k in "wxyz")
    norm = float(np.linalg.norm([w, x, y, z]))
    if not np.isfinite([*position, norm]).all() or not 0.9 < norm < 1.1:
        raise ValueError("expected finite positions and unit quaternions")
    if max(abs(v) for v in position) > MAX_COORDINATE:
        raise ValueError(f"positions must be within {MAX_COORDINATE:g} m")
    return poses.from_quaternion(position, (x, y, z, w))
