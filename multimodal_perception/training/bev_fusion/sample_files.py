"""Files of training samples, and the arrays that all samples have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.files import FileError, atomic_write
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.npz_reader import read_npz

POINT_STEP = 0.0025
# Position of the LiDAR in samples that do not contain it: as in the rig `simulation`.
DEFAULT_LIDAR_POSITION = (0.0, 0.0, 1.8)
Arrays = dict[str, NDArray[Any]]


class SampleError(UserError):
    """A sample that cannot be read; the message names the file."""


def write_sample(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a sample; the file is replaced atomically."""
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_sample(path: Path, names: Iterable[str] | None = None) -> Arrays:
    """Read arrays of a sample by name, all or some. Raises SampleError."""
    try:
        return read_npz(path, names)
    except FileError as error:
        raise SampleError(str(error)) from error


def sample_paths(folder: Path) -> list[Path]:
    """Paths of the samples in a folder and its subfolders, sorted. Raises SampleError when there are
    none."""
    paths = sorted(p for p in folder.rglob("*.npz") if not p.name.startswith("."))
    if not paths:
        raise SampleError(f"{folder}: no samples (.npz)")
    return paths


def sample_points(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Points (N, 4) float32 of a sample: x, y, z in base_link and intensity."""
    points = np.empty((len(arrays["points"]), 4), np.float32)
    points[:, :3] = arrays["points"] * np.float32(POINT_STEP)
    points[:, 3] = arrays["intensity"] / np.float32(255)
    return points


def lidar_position(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Position (3,) float32 of the LiDAR of a sample in base_link."""
    return np.asarray(arrays.get("lidar", DEFAULT_LIDAR_POSITION), np.float32)


def image_views(arrays: Mapping[str, NDArray[Any]], modality: str) -> list[ImageView]:
    """Camera models and poses of the images of a modality, "camera" or "thermal", in order."""
    views: list[ImageView] = []
    while f"{modality}{len(views)}.pixels" in arrays:
        key = f"{modality}{len(views)}"
        height, width = (int(v) for v in arrays[f"{key}.size"])
        model = CameraModel(
            width,
            height,
            arrays[f"{key}.matrix"],
            str(arrays[f"{key}.model"]),  # type: ignore[arg-type]
            arrays[f"{key}.coefficients"],
        )
        views.append(ImageView(model, arrays[f"{key}.pose"]))
    return views
