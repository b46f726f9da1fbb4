"""Training samples of the detector: one .npz file for each frame, simulated or recorded.

Arrays of a sample: points (N, 3) int16: base_link, in units of POINT_STEP metres; intensity (N,) uint8:
  255 is 1 boxes (K, 7) float32: labelled boxes; labels (K,) uint8: indices into frame.CLASS_NAMES;
  num_points (K,) int32: LiDAR points in each box; visibility (K,) float32: visible fraction of each
  object, 1 if unknown camera<k>.* and thermal<k>.*: pixels uint8, scaled to the input size of the
  network; semantics (h, w) uint8 at 1/8 of that size: indices into SEGMENT_NAMES, 255 if unknown;
  matrix, coefficients, size and model of the scaled image; pose (4, 4): base_link at the stamp of the
  frame from the optical frame ultrasonic (U, 8) float32: x, y, z and yaw of the sensor in base_link,
  range, minimum and maximum range, opening angle lidar (3,) float32: position of the first LiDAR in
  base_link; missing in frames without LiDAR labels_in_view: exists if objects outside the field of view
  of all cameras are not labelled, as in KITTI metadata: JSON text with the origin and the conditions of
  the frame
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.ultrasonic_channels import ultrasonic_readings
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    Arrays,
)

MAX_COORDINATE = 80.0
CAMERA_SIZE, THERMAL_SIZE = (288, 512), (256, 320)
STRIDE = 8
# Classes of the auxiliary segmentation task of the images.
SEGMENT_NAMES = (
    "background", "car", "pedestrian", "cyclist", "pole", "vegetation", "van", "truck", "bus"
)  # fmt: skip
UNKNOWN_SEGMENT = 255


def build_sample(
    frame: SensorFrame,
    metadata: Mapping[str, Any],
    visibility: NDArray[np.float32] | None = None,
    semantics: Mapping[str, NDArray[np.uint8]] | None = None,
    labels_in_view: bool = False,
) -> Arrays:
    """The sample of a labelled frame with deskewed sweeps.

    metadata: values that JSON can represent. visibility: (K,) visible fraction of the labelled objects.
    semantics: indices into SEGMENT_NAMES, (H, W) uint8 at the size of the image, by the name of the
    camera or thermal camera. labels_in_view: see the module. Raises ValueError for a frame without
    labels.
    """
    if frame.labels is None:
        raise ValueError("the frame has no labels")
    points = segment_ground(frame).points
    points = points[(np.abs(points[:, :3]) < MAX_COORDINATE).all(axis=1)]
    labels = frame.labels
    counts = labels.num_points
    if counts is None:
        counts = count_points_in_boxes(points, labels.boxes, 0.1)
    arrays: Arrays = {
        "points": np.rint(points[:, :3] / POINT_STEP).astype(np.int16),
        "intensity": np.rint(255 * points[:, 3]).astype(np.uint8),
        "boxes": labels.boxes.astype(np.float32),
        "labels": labels.labels.astype(np.uint8),
        "num_points": np.asarray(counts).astype(np.int32),
        "visibility": np.ones(len(labels), np.float32) if visibility is None else visibility,
        "ultrasonic": ultrasonic_readings(frame),
        "metadata": np.array(json.dumps(dict(metadata))),
    }
    if labels_in_view:
        arrays["labels_in_view"] = np.array(True)
    for name in list(frame.lidars)[:1]:
        arrays["lidar"] = frame.reference_from_sensor(name)[:3, 3].astype(np.float32)
    for k, (name, camera) in enumerate(frame.cameras.items()):
        arrays |= _image(frame, f"camera{k}", name, camera.rgb(), CAMERA_SIZE, semantics)
    for k, (name, image) in enumerate(frame.thermals.items()):
        normalised = ThermalNormaliser().normalise(image.filled_pixels(), image.stamp_ns)
        pixels = np.rint(255 * normalised).astype(np.uint8)
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
    segments = np.full((size[0] // STRIDE, size[1] // STRIDE), UNKNOWN_SEGMENT, np.uint8)
    if semantics is not None and name in semantics:
        small = _downsample_semantics(semantics[name], model)
        segments[: len(small), : small.shape[1]] = small
    return {
        f"{key}.pixels": fit_image(pixels, size),
        f"{key}.semantics": segments,
        f"{key}.matrix": model.matrix,
        f"{key}.coefficients": model.coefficients,
        f"{key}.size": np.array([model.height, model.width]),
        f"{key}.model": np.array(model.model),
        f"{key}.pose": frame.reference_from_sensor(name),
    }


def _downsample_semantics(labels: NDArray[np.uint8], model: CameraModel) -> NDArray[np.uint8]:
    """Class of each cell of STRIDE pixels: the rarest class that covers at least an eighth of the cell.

    model: of the scaled image, which may be smaller than the input of the network.
    """
    height, width = model.height // STRIDE, model.width // STRIDE
    fractions = [
        cv2.resize((labels == k).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        for k in range(len(SEGMENT_NAMES))
    ]
    segments = np.zeros((height, width), np.uint8)
    for k in (5, 1, 6, 7, 8, 4, 3, 2):  # from frequent to rare classes
        segments[fractions[k] > 0.125] = k
    return segments


def segment_lookup_table(names: Iterable[str]) -> NDArray[np.uint8]:
    """Index into SEGMENT_NAMES (0 for background) for each semantic class of the simulator."""
    return np.array([SEGMENT_NAMES.index(n) if n in SEGMENT_NAMES else 0 for n in names], np.uint8)
