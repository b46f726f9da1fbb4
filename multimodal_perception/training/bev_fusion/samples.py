"""Training samples of the BEV fusion detector: one .npz file for each simulated frame.

Arrays:
- points (N, 3) int16: x, y and z in base_link, in units of POINT_STEP metres; intensity (N,) uint8, 255
  is 1; lidar (3,): position of the first LiDAR in base_link. Missing or empty without LiDAR.
- boxes (K, 7), labels (K,) indices into frame.CLASS_NAMES, num_points (K,) LiDAR points in each box,
  visibility (K,) visible fraction: of the labelled objects.
- ultrasonic (U, 8): see rasterise_ultrasonic_ranges. metadata: JSON text with the origin and the
  conditions of the frame.
- past<k>.points (N, 3) int16 and past<k>.age (): non-ground points of the k-th sweep before the frame, x
  and y in base_link of the frame, height above the ground of that sweep, in units of POINT_STEP; age in
  seconds.
- velocities (K, 2) float32: of the labelled objects over ground, along x and y of base_link, m/s.
- camera<k>.* and thermal<k>.*: pixels are an encoded image (JPEG, or PNG for thermal images) at the
  input size of the network; semantics (h / 4, w / 4) uint8: indices into SEGMENT_NAMES; objects
  (h / 4, w / 4) uint16: 1 + index of the labelled object, 0 for others; ranges (h / 8, w / 8) uint16:
  distance from the camera in units of RANGE_STEP, FAR beyond, 0 outside of the image; object_pixels
  (K,) float32: visible pixels of each labelled object; matrix, coefficients, size and model of the
  scaled image; pose (4, 4): base_link at the stamp of the frame from the optical frame.
- ground_z (): height of the ground plane in base_link, metres.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    FEATURE_STRIDE,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.past_sweep_buffer import MAX_POINTS
from multimodal_perception.detection.bev_fusion.sweep_pillars import (
    MAX_PAST_HEIGHT,
    MIN_PAST_HEIGHT,
    PastSweep,
)
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import ultrasonic_readings
from multimodal_perception.frame import CLASS_NAMES, CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.pointcloud.ground_segmentation import Cloud, segment_ground
from multimodal_perception.pointcloud.weather_noise_filter import filter_weather_noise
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    Arrays,
    SampleError,
)

# Points at larger horizontal distances are not stored: the pillars reach 51.2 m along x and y.
MAX_DISTANCE = 70.0
RANGE_STEP, FAR = 0.01, 65535
# A JPEG quality at which the artefacts are below the noise of the simulated cameras.
JPEG_QUALITY = 95
# Classes of the auxiliary segmentation task of the images.
SEGMENT_NAMES = (
    "background", "car", "van", "truck", "bus", "trailer", "motorcyclist", "cyclist", "pedestrian",
    "cone", "barrier", "pole", "vegetation",
)  # fmt: skip
UNKNOWN_SEGMENT = 255
SEGMENT_OF_SEMANTIC = np.array(
    [SEGMENT_NAMES.index(n) if n in SEGMENT_NAMES else 0 for n in SEMANTIC_NAMES], np.uint8
)


def build_sample(
    simulation: Simulation, index: int, config: BevFusionNetworkConfig, lidar: bool = True
) -> Arrays:
    """The sample of one frame of a simulation.

    config: the sizes of the images, and the number of past sweeps; there are fewer at the beginning of a
    drive. lidar: whether the sample contains points; without them only its images can be used.
    """
    frame, truth = simulation[index], simulation.truth(index)
    labels = truth.boxes
    assert labels.velocities is not None and labels.num_points is not None
    assert labels.track_ids is not None
    arrays: Arrays = {
        "boxes": labels.boxes.astype(np.float32),
        "labels": labels.labels.astype(np.uint8),
        "num_points": labels.num_points.astype(np.int32),
        "velocities": labels.velocities.astype(np.float32),
        "visibility": truth.visibility.astype(np.float32),
        "ultrasonic": ultrasonic_readings(frame),
        "ground_z": np.array(frame.ground_z, np.float32),
        "metadata": np.array(json.dumps(_metadata(simulation, index))),
    }
    if lidar:
        arrays |= _point_arrays(simulation, frame, index, config.past_sweeps)
    images: tuple[Mapping[str, Any], ...] = frame.cameras, frame.thermals
    for modality, by_name in zip(("camera", "thermal"), images, strict=True):
        for k, (name, image) in enumerate(by_name.items()):
            arrays |= image_arrays(
                f"{modality}{k}",
                image,
                config.image_size(modality),
                frame.intrinsics[name],
                frame.reference_from_sensor(name),
                truth.views[name],
                labels.track_ids,
            )
    return arrays


def _metadata(simulation: Simulation, index: int) -> dict[str, Any]:
    conditions = simulation.conditions
    return {
        "scenario": simulation.scenario.name,
        "profile": simulation.profile,
        "rig": simulation.rig.name,
        "seed": simulation.seed,
        "frame": index,
        "night": conditions.night,
        "fog": conditions.fog_visibility,
        "rain": conditions.rain,
    }


def _point_arrays(
    simulation: Simulation, frame: SensorFrame, index: int, past_sweeps: int
) -> Arrays:
    """Points of the frame and of the sweeps before it."""
    points = visible_cloud(frame).points
    points = points[np.hypot(points[:, 0], points[:, 1]) < MAX_DISTANCE]
    arrays: Arrays = {
        "points": quantise(points[:, :3]),
        "intensity": np.rint(255 * points[:, 3]).astype(np.uint8),
    }
    for name in list(frame.lidars)[:1]:
        arrays["lidar"] = frame.reference_from_sensor(name)[:3, 3].astype(np.float32)
    assert frame.odom_from_base is not None
    base_from_odom = poses.inverse(frame.odom_from_base)
    for k in range(min(past_sweeps, index) if frame.lidars else 0):
        past = simulation.sweeps(index - 1 - k)
        assert past.odom_from_base is not None
        moved = past_points(visible_cloud(past), base_from_odom @ past.odom_from_base)
        moved = moved[np.hypot(moved[:, 0], moved[:, 1]) < MAX_DISTANCE]
        arrays[f"past{k}.points"] = quantise(moved)
        arrays[f"past{k}.age"] = np.array((frame.stamp_ns - past.stamp_ns) / 1e9, np.float32)
    return arrays


def visible_cloud(frame: SensorFrame) -> Cloud:
    """The points of a frame that the detector receives: without those that may be rain or fog."""
    return filter_weather_noise(segment_ground(frame)).reliable


def past_points(cloud: Cloud, base_from_past: NDArray[np.float64]) -> NDArray[np.float32]:
    """Non-ground points (N, 3) of a past cloud: x, y in the present base_link, height above ground."""
    keep = ~cloud.is_ground & (cloud.height >= MIN_PAST_HEIGHT) & (cloud.height < MAX_PAST_HEIGHT)
    rows = np.flatnonzero(keep)
    rows = rows[:: max(-(-len(rows) // MAX_POINTS), 1)]  # as in PastSweepBuffer
    moved = poses.transform_points(base_from_past, cloud.points[rows, :3]).astype(np.float32)
    moved[:, 2] = cloud.height[rows]
    return moved


def quantise(points: NDArray[np.float32]) -> NDArray[np.int16]:
    """Coordinates (N, 3) in units of POINT_STEP."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(points / POINT_STEP), limits.min, limits.max).astype(np.int16)


def image_arrays(
    key: str,
    image: CameraImage | ThermalImage,
    size: tuple[int, int],
    model: CameraModel,
    pose: NDArray[np.float64],
    truth: ImageTruth,
    track_ids: NDArray[np.int64],
) -> Arrays:
    """Arrays of one image with its ground truth.

    size: height and width of the network's input. model: of the image. pose: base_link from the optical
    frame. track_ids: (K,) of the labelled objects.
    """
    if isinstance(image, CameraImage):
        pixels = encode_image(fit_image(image.rgb(), size))
    else:
        normalised = ThermalNormaliser().normalise(image.filled_pixels(), image.stamp_ns)
        pixels = encode_image(fit_image(np.rint(255 * normalised).astype(np.uint8), size))
    fitted = fitted_model(model, size)
    number_of_track = {int(t): k + 1 for k, t in enumerate(track_ids)}
    ids, inverse = np.unique(truth.instances, return_inverse=True)
    numbers = np.array([number_of_track.get(int(t), 0) for t in ids], np.uint16)
    objects = numbers[inverse].reshape(truth.instances.shape)
    counts = np.bincount(objects.ravel(), minlength=len(track_ids) + 1)[1:]
    scale = (fitted.height * fitted.width) / objects.size
    assert truth.ranges is not None
    ranges = np.minimum(truth.ranges / RANGE_STEP, FAR)
    segments = SEGMENT_OF_SEMANTIC[truth.semantics]
    return {
        f"{key}.pixels": pixels,
        f"{key}.semantics": sample_cells(segments, fitted, size, FEATURE_STRIDE, UNKNOWN_SEGMENT),
        f"{key}.objects": sample_cells(objects, fitted, size, FEATURE_STRIDE, 0),
        f"{key}.ranges": sample_cells(ranges.astype(np.uint16), fitted, size, DEPTH_STRIDE, 0),
        f"{key}.object_pixels": (scale * counts).astype(np.float32),
        f"{key}.matrix": fitted.matrix,
        f"{key}.coefficients": fitted.coefficients,
        f"{key}.size": np.array([fitted.height, fitted.width]),
        f"{key}.model": np.array(fitted.model),
        f"{key}.pose": pose,
    }


def sample_cells(
    values: NDArray[Any], model: CameraModel, size: tuple[int, int], stride: int, outside: int
) -> NDArray[Any]:
    """Values of an image (H, W) at the centres of the cells of `stride` pixels of the scaled image.

    model: of the scaled image; size: height and width of the network's input. `outside` for cells whose
    centre is not in the image.
    """
    rows, columns = size[0] // stride, size[1] // stride
    centres = [(np.arange(n) + 0.5) * stride - 0.5 for n in (rows, columns)]
    lengths = model.height, model.width
    scales = (n / m for n, m in zip(values.shape, lengths, strict=True))
    indices = [
        np.minimum(np.floor((c + 0.5) * s).astype(np.int64), n - 1)
        for c, s, n in zip(centres, scales, values.shape, strict=True)
    ]
    sampled = values[np.ix_(*indices)].copy()
    for axis, (c, length) in enumerate(zip(centres, lengths, strict=True)):
        index = (slice(None),) * axis + (c > length - 0.5,)
        sampled[index] = outside
    return sampled


def encode_image(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) as JPEG, or a thermal image (H, W) as PNG: (bytes,) uint8."""
    if pixels.ndim == 2:
        encoded = cv2.imencode(".png", pixels)[1]
    else:
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1]
    return np.asarray(encoded, np.uint8).ravel()


def decode_image(encoded: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """The pixels of encode_image: (H, W, 3) RGB or (H, W). path: of the sample. Raises SampleError."""
    pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise SampleError(f"{path}: an image cannot be decoded")
    pixels = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    return np.ascontiguousarray(pixels, np.uint8)


def past_sweeps(arrays: Mapping[str, NDArray[Any]]) -> list[PastSweep]:
    """The past sweeps of a sample, the most recent first."""
    sweeps: list[PastSweep] = []
    while (key := f"past{len(sweeps)}") + ".points" in arrays:
        points = arrays[f"{key}.points"] * np.float32(POINT_STEP)
        sweeps.append(PastSweep(points, float(arrays[f"{key}.age"])))
    return sweeps


def has_lidar(path: Path) -> bool:
    """Whether a sample has the points of a LiDAR. Raises SampleError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "lidar.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise SampleError(f"{path}: {error}") from error


def image_keys(arrays: Mapping[str, NDArray[Any]], modality: str) -> list[str]:
    """Prefixes of the arrays of the images of a modality, "camera" or "thermal"."""
    keys: list[str] = []
    while f"{modality}{len(keys)}.pixels" in arrays:
        keys.append(f"{modality}{len(keys)}")
    return keys


def class_indices(names: tuple[str, ...]) -> NDArray[np.int64]:
    """Index into `names` of each of CLASS_NAMES, -1 for classes that `names` does not have."""
    return np.array([names.index(n) if n in names else -1 for n in CLASS_NAMES], np.int64)
