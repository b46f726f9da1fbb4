"""What a detector is trained on: one .npz a frame, of simulated drives or of any labelled data set.

A sample holds (names in the file):
  points (N, 3) int16, base_link, POINT_STEP metres a step; intensity (N,) uint8, 255 is 1
  boxes (K, 7) float32; labels (K,) uint8 of frame.CLASS_NAMES; num_points (K,) int32;
  visibility (K,) float32, 1 where it is not known
  camera<k>.* and thermal<k>.*: pixels uint8 fitted to the network's size; semantics (h, w) uint8 at an
  eighth of it, of SEGMENT_NAMES, 255 where it is not known; matrix, coefficients, size, model: of the
  fitted image; pose (4, 4): base_link at the frame's stamp from the optical frame
  ultrasonic (U, 8) float32: x y z yaw of the sensor in base_link, range, min and max range, view angle
  lidar (3,) float32: the first LiDAR's place in base_link; lacking where the frame has none
  labels_in_view: there where what no camera sees is not labelled, as in KITTI
  told: JSON text, where it comes from and in what conditions
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.image_projection import ImageView
from multimodal_perception.detection.fusion.network_inputs import echo_rows
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud

POINT_STEP = 0.0025
REACH = 80.0
# The LiDAR's place in samples that do not tell it: that of the rig `simulation`.
LIDAR = (0.0, 0.0, 1.8)
CAMERA_SIZE, THERMAL_SIZE = (288, 512), (256, 320)
STRIDE = 8
# What the images' auxiliary task tells apart.
SEGMENT_NAMES = (
    "background", "car", "pedestrian", "cyclist", "pole", "vegetation", "van", "truck", "bus"
)  # fmt: skip
UNKNOWN_SEGMENT = 255
Arrays = dict[str, NDArray[Any]]


class SampleError(UserError):
    """A sample that cannot be read; the message names the file."""


def sample_of(
    frame: SensorFrame,
    told: Mapping[str, Any],
    visibility: NDArray[np.float32] | None = None,
    semantics: Mapping[str, NDArray[np.uint8]] | None = None,
    labels_in_view: bool = False,
) -> Arrays:
    """The sample of a labelled frame (sweeps deskewed).

    semantics: by camera or thermal sensor, (H, W) uint8 of SEGMENT_NAMES at the image's own size.
    labels_in_view: what no camera sees is not labelled. Raises ValueError without labels.
    """
    if frame.labels is None:
        raise ValueError("the frame has no labels")
    points = ground_cloud(frame).points
    points = points[(np.abs(points[:, :3]) < REACH).all(axis=1)]
    labels = frame.labels
    counts = labels.num_points
    if counts is None:
        counts = points_in_boxes(points, labels.boxes, 0.1)
    arrays: Arrays = {
        "points": np.rint(points[:, :3] / POINT_STEP).astype(np.int16),
        "intensity": np.rint(255 * points[:, 3]).astype(np.uint8),
        "boxes": labels.boxes.astype(np.float32),
        "labels": labels.labels.astype(np.uint8),
        "num_points": np.asarray(counts).astype(np.int32),
        "visibility": np.ones(len(labels), np.float32) if visibility is None else visibility,
        "ultrasonic": echo_rows(frame),
        "told": np.array(json.dumps(dict(told))),
    }
    if labels_in_view:
        arrays["labels_in_view"] = np.array(True)
    for name in list(frame.lidars)[:1]:
        arrays["lidar"] = frame.reference_from_sensor(name)[:3, 3].astype(np.float32)
    for k, (name, camera) in enumerate(frame.cameras.items()):
        arrays |= _image(frame, f"camera{k}", name, camera.rgb(), CAMERA_SIZE, semantics)
    for k, (name, image) in enumerate(frame.thermals.items()):
        even = ThermalNormaliser().normalise(image.pixels, image.stamp_ns)
        pixels = np.rint(255 * even).astype(np.uint8)
        arrays |= _image(frame, f"thermal{k}", name, pixels, THERMAL_SIZE, semantics)
    return arrays


def _image(
    frame: SensorFrame,
    key: str,
    name: str,
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    semantics: Mapping[str, NDArray[np.uint8]] | None,
) -> Arrays:
    model = fitted_model(frame.intrinsics[name], size)
    coarse = np.full((size[0] // STRIDE, size[1] // STRIDE), UNKNOWN_SEGMENT, np.uint8)
    if semantics is not None and name in semantics:
        coarse = _coarse(semantics[name], model, coarse)
    return {
        f"{key}.pixels": fit_image(pixels, size),
        f"{key}.semantics": coarse,
        f"{key}.matrix": model.matrix,
        f"{key}.coefficients": model.coefficients,
        f"{key}.size": np.array([model.height, model.width]),
        f"{key}.model": np.array(model.model),
        f"{key}.pose": frame.reference_from_sensor(name),
    }


def _coarse(
    labels: NDArray[np.uint8], model: CameraModel, into: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Each cell's class: the rarest that takes at least an eighth of it."""
    height, width = model.height // STRIDE, model.width // STRIDE
    shares = [
        cv2.resize((labels == k).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        for k in range(len(SEGMENT_NAMES))
    ]
    found = np.zeros((height, width), np.uint8)
    for k in (5, 1, 6, 7, 8, 4, 3, 2):
        found[shares[k] > 0.125] = k
    into[:height, :width] = found
    return into


def write_sample(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a sample whole or not at all."""
    partial = path.with_name(f".{path.name}")
    with open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def read_sample(path: Path, names: Iterable[str] | None = None) -> Arrays:
    """Arrays of a sample by name, all or those named. Raises SampleError."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in (content.files if names is None else names)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SampleError(f"{path}: {error}") from error


def sample_paths(folder: Path) -> list[Path]:
    """The samples below a folder, in order. Raises SampleError when there is none."""
    paths = sorted(p for p in folder.rglob("*.npz") if not p.name.startswith("."))
    if not paths:
        raise SampleError(f"{folder}: no samples (.npz)")
    return paths


def points_of(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Points (N, 4) float32 of a sample, x y z intensity in base_link."""
    points = np.empty((len(arrays["points"]), 4), np.float32)
    points[:, :3] = arrays["points"] * np.float32(POINT_STEP)
    points[:, 3] = arrays["intensity"] / np.float32(255)
    return points


def lidar_of(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Where the LiDAR of a sample is, (3,) float32 in base_link."""
    return np.asarray(arrays.get("lidar", LIDAR), np.float32)


def views_of(arrays: Mapping[str, NDArray[Any]], kind: str) -> list[ImageView]:
    """The views of a kind of image, "camera" or "thermal", in order; pixels are at kind<k>.pixels."""
    views: list[ImageView] = []
    while f"{kind}{len(views)}.pixels" in arrays:
        key = f"{kind}{len(views)}"
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


def segment_table(names: Iterable[str]) -> NDArray[np.uint8]:
    """Class of SEGMENT_NAMES for each of the simulator's semantic names."""
    return np.array([SEGMENT_NAMES.index(n) if n in SEGMENT_NAMES else 0 for n in names], np.uint8)
