"""Writes small PandaSet sequences with pandas, in the layout of the published data set."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FIRST_STAMP_S = 1_557_539_956.5
PERIOD_S = 0.1
FOCAL, WIDTH, HEIGHT = 300.0, 320, 180
# Optical frame (x right, y down, z forward) in the LiDAR frame (x right, y forward).
LIDAR_FROM_FRONT_CAMERA = np.array(
    [[1.0, 0, 0, 0.1], [0, 0, 1.0, 0.5], [0, -1.0, 0, -0.2], [0, 0, 0, 1]]
)


def world_from_lidar(k: float, speed: float = 5.0, heading: float = 0.3) -> NDArray[np.float64]:
    """Pose of the LiDAR in frame k: it drives along its y axis, turned by `heading` about z."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", heading).as_matrix()
    pose[:3, 3] = (100.0, -50.0, 3.0) + pose[:3, :3] @ (0.0, speed * PERIOD_S * k, 0.0)
    return pose


def pose_entry(pose: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """A pose as in poses.json."""
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    position = dict(zip("xyz", pose[:3, 3].tolist(), strict=True))
    return {"position": position, "heading": {"w": w, "x": x, "y": y, "z": z}}


def cuboid(
    uuid: str, label: str, position: Any, dimensions: Any, yaw: float, **values: Any
) -> dict[str, Any]:
    """A row of the cuboids: position in the world frame, dimensions width, length, height."""
    row: dict[str, Any] = {
        "uuid": uuid,
        "label": label,
        "yaw": yaw,
        "stationary": False,
        "camera_used": -1,
    }
    row |= {f"position.{a}": float(v) for a, v in zip("xyz", position, strict=True)}
    row |= {f"dimensions.{a}": float(v) for a, v in zip("xyz", dimensions, strict=True)}
    row |= {
        "attributes.object_motion": None,
        "cuboids.sibling_id": "-",
        "cuboids.sensor_id": -1,
        "attributes.rider_status": None,
    }
    return row | values


def write_frame(path: Path, frame: Any, protocol: int = 4) -> None:
    """Write a DataFrame as the data set does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(frame, protocol=protocol)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_sequence(
    root: Path,
    points: list[NDArray[np.float64]],
    cuboids: list[list[dict[str, Any]]] | None = None,
    *,
    suffix: str = ".pkl.gz",
    protocol: int = 4,
    speed: float = 5.0,
    camera_delay_s: float = -0.05,
    classes: list[NDArray[np.int64]] | None = None,
) -> None:
    """Write a sequence.

    points: by frame, (N, 6) x, y, z, i, t, d in the world frame. camera_delay_s: time of the images
    relative to the sweeps.
    """
    import pandas as pd

    n = len(points)
    for k in range(n):
        frame = pd.DataFrame(points[k], columns=list("xyzitd"))
        frame["d"] = frame["d"].astype(np.int64)
        frame.index.name = "index"
        write_frame(root / "lidar" / f"{k:02d}{suffix}", frame, protocol)
        if cuboids is not None:
            columns = list(cuboid("", "", (0, 0, 0), (1, 1, 1), 0.0))
            table = pd.DataFrame(cuboids[k], columns=columns)
            write_frame(root / "annotations" / "cuboids" / f"{k:02d}{suffix}", table, protocol)
        if classes is not None:
            table = pd.DataFrame({"class": classes[k]})
            write_frame(root / "annotations" / "semseg" / f"{k:02d}{suffix}", table, protocol)
    stamps = [FIRST_STAMP_S + PERIOD_S * k for k in range(n)]
    _write_json(
        root / "lidar" / "poses.json", [pose_entry(world_from_lidar(k, speed)) for k in range(n)]
    )
    _write_json(root / "lidar" / "timestamps.json", stamps)
    camera = root / "camera" / "front_camera"
    _write_json(
        camera / "intrinsics.json", {"fx": FOCAL, "fy": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    )
    at_exposure = [world_from_lidar(k + camera_delay_s / PERIOD_S, speed) for k in range(n)]
    poses = [pose_entry(pose @ LIDAR_FROM_FRONT_CAMERA) for pose in at_exposure]
    _write_json(camera / "poses.json", poses)
    _write_json(camera / "timestamps.json", [s + camera_delay_s for s in stamps])
    for k in range(n):
        image = np.full((HEIGHT, WIDTH, 3), (10 * k, 100, 200), np.uint8)
        cv2.imwrite(str(camera / f"{k:02d}.jpg"), image)
    gps = [{"lat": 37.7, "long": -122.4, "height": 3.0, "xvel": 1.0, "yvel": 2.0}] * n
    _write_json(root / "meta" / "gps.json", gps)
    _write_json(root / "meta" / "timestamps.json", stamps)
    if classes is not None:
        names = {"7": "Road", "13": "Car"}
        _write_json(root / "annotations" / "semseg" / "classes.json", names)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
