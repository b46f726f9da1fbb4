"""Evaluation of the calibration monitor.

It is tested with known shifts and rotations of real image pairs, and with known rotation errors of the
cameras of recorded and simulated rigs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multimodal_perception.calibration_monitor.drift_estimation import (
    Fit,
    fit_motion,
    rigid_candidates,
    rigid_displacements,
)
from multimodal_perception.calibration_monitor.edge_matching import edge_channels, match_blocks
from multimodal_perception.calibration_monitor.monitor import (
    CalibrationMonitorConfig,
    estimate_drift,
)
from multimodal_perception.calibration_monitor.sensor_pairs import (
    Pair,
    find_pairs,
    measure_rotation_error,
)
from multimodal_perception.datasets.visible_thermal_pairs import ImagePair, read_pair
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level

# Largest shift (pixels) and rotation (radians) of image pairs.
MAX_SHIFT, MAX_ROTATION = 20.0, np.radians(2.0)
# Step between blocks of image pairs, and the largest displacement of a block, pixels. The latter is
# the displacement of an image corner by the largest shift and rotation.
BLOCK_STEP, MAX_DISPLACEMENT = 48, 32
# Translation errors that must raise an alarm, m.
TRANSLATION_RANGE_M = (0.05, 0.2)
# Rotation errors that must raise an alarm, and the largest one that must not, degrees.
ROTATION_RANGE_DEG, JITTER_DEG = (0.5, 2.0), 0.05


def move_thermal_image(
    pair: ImagePair, motion: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The thermal image (H, W) of a pair moved by x, y (pixels) and angle (radians), and a valid mask.

    The mask (H, W) is False for pixels that come from outside the original image.
    """
    height, width = pair.thermal.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    c, s = np.cos(motion[2]), np.sin(motion[2])
    rotation = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([rotation, centre + motion[:2] - rotation @ centre])
    image = cv2.warpAffine(pair.thermal, matrix, (width, height))
    ones = np.full((height, width), 255, np.uint8)
    return image, cv2.warpAffine(ones, matrix, (width, height), flags=cv2.INTER_LINEAR) == 255


def estimate_motion(
    visible: NDArray[np.uint8], thermal: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None
) -> Fit | None:
    """Estimate the shift x, y (pixels) and the angle (radians) of a thermal image.

    The motion is relative to the visible image of equal size (H, W), about the image centre. valid:
    (H, W) mask of the thermal image. Returns None if no motion fits.
    """
    height, width = visible.shape
    blocks = match_blocks(
        edge_channels(visible),
        edge_channels(thermal, valid),
        step=BLOCK_STEP,
        max_displacement=MAX_DISPLACEMENT,
    )
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    grid = rigid_candidates(MAX_SHIFT + 1, float(np.hypot(*centre)))
    return fit_motion(blocks, rigid_displacements(blocks.centres, centre), grid)


def mean_displacement(
    first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, int]
) -> float:
    """Mean distance in pixels between two motions of an image, over a grid of points.

    first, second: shift x, y (pixels) and angle (radians). shape: (H, W) of the image.
    """
    height, width = shape
    grid = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7))
    points = np.stack(grid, -1).reshape(-1, 2)
    motion_model = rigid_displacements(points, np.array([(width - 1) / 2, (height - 1) / 2]))
    first_points, second_points = motion_model(np.stack([first, second]))
    return float(np.linalg.norm(first_points - second_points, axis=1).mean())


def score_pairs(root: str | Path, stems: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """Errors of the estimated motion for random shifts and rotations of aligned pairs.

    error_px: mean displacement of the image points between the estimated and the true motion.
    relative_error_px: the same, but the true motion includes the motion that is estimated for the
    original pair, because the images of public pairs are misaligned by some pixels. Raises UserError
    for an invalid file.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for stem in stems:
        pair = read_pair(root, stem)
        azimuth, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, MAX_SHIFT)
        angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
        motion = np.array([length * np.cos(azimuth), length * np.sin(azimuth), angle])
        estimate = estimate_motion(pair.grey, *move_thermal_image(pair, motion))
        original = estimate_motion(pair.grey, pair.thermal)
        shape = pair.thermal.shape
        row: dict[str, Any] = {"stem": stem, "motion": motion.tolist(), "error_px": None}
        if estimate is not None:
            row["error_px"] = mean_displacement(estimate.values, motion, shape)
            row["standard_deviation"] = np.sqrt(np.diag(estimate.covariance)).tolist()
            row["inlier_fraction"], row["peak_margin"] = (
                estimate.inlier_fraction,
                estimate.peak_margin,
            )
            row["shift_error_px"] = float(np.linalg.norm((estimate.values - motion)[:2]))
            row["angle_error_deg"] = float(np.degrees(abs(estimate.values[2] - angle)))
            if original is not None:
                total = motion + original.values
                row["relative_error_px"] = mean_displacement(estimate.values, total, shape)
        rows.append(row)
    errors = np.array([np.inf if r["error_px"] is None else r["error_px"] for r in rows])
    relative = np.array([r.get("relative_error_px", np.inf) for r in rows])
    return {
        "pairs": len(rows),
        "median_error_px": float(np.median(errors)),
        "p90_error_px": float(np.percentile(errors, 90)),
        "fraction_within_2_px": float((errors <= 2).mean()),
        "median_relative_error_px": float(np.median(relative)),
        "median_shift_error_px": _median(rows, "shift_error_px"),
        "median_angle_error_deg": _median(rows, "angle_error_deg"),
        "rows": rows,
    }


def with_pose_error(
    frame: SensorFrame,
    sensor: str,
    rotation: NDArray[np.float64],
    translation: NDArray[np.float64] | None = None,
) -> SensorFrame:
    """The frame with a rotation error (3,) and a translation error (3,) in the extrinsics of a sensor.

    rotation: rotation vector with the sign convention of RotationMeasurement, radians. translation: with
    that of PoseError, metres.
    """
    error = np.eye(4)
    error[:3, :3] = Rotation.from_rotvec(rotation).as_matrix()
    if translation is not None:
        error[:3, 3] = translation
    poses = {**frame.base_from_sensor, sensor: frame.base_from_sensor[sensor] @ error}
    return replace(frame, base_from_sensor=poses)


@dataclass(frozen=True)
class RotationTrial:
    """The result of the calibration monitor for one frame with a known rotation error.

    applied_deg: the rotation error. residual_deg: angle between the applied and the estimated rotation,
    NaN without an estimate. alarm: whether the monitor reported a drift.
    """

    frame: str
    pair: Pair
    applied_deg: float
    residual_deg: float
    alarm: bool


def rotation_trials(
    frames: Iterable[tuple[str, SensorFrame]],
    rotations: int,
    jitters: int,
    config: CalibrationMonitorConfig | None = None,
    seed: int = 0,
) -> Iterator[RotationTrial]:
    """Evaluate each frame and sensor pair with known rotation errors about random axes.

    For each pair: no error, `jitters` errors of up to 0.05 degrees, and `rotations` errors of 0.5 to 2
    degrees. Each result is from a single frame.
    """
    rng = np.random.default_rng(seed)
    for name, frame in frames:
        for pair in find_pairs(frame):
            angles = [
                0.0,
                *rng.uniform(0, JITTER_DEG, jitters),
                *rng.uniform(*ROTATION_RANGE_DEG, rotations),
            ]
            for angle in angles:
                axis = rng.normal(size=3)
                rotation = np.radians(angle) * axis / np.linalg.norm(axis)
                modified = with_pose_error(frame, pair.sensor, rotation)
                measurement = measure_rotation_error(modified, pair)
                drift = None if measurement is None else estimate_drift([measurement], config)
                residual = np.nan
                if drift is not None:
                    estimated, applied = map(Rotation.from_rotvec, (drift.rotation, rotation))
                    residual = float(np.degrees((estimated * applied.inv()).magnitude()))
                alarm = drift is not None and drift.level is not Level.OK
                yield RotationTrial(name, pair, angle, residual, alarm)


@dataclass(frozen=True)
class WindowTrial:
    """The result of the calibration monitor for the frames of a window with a known pose error.

    applied_deg, applied_m: size of the rotation and of the translation. residual_deg, residual_m: size
    of the difference to the estimate, NaN without one. alarm: whether the monitor reported a drift.
    is_moved: whether it reported a translation.
    """

    drive: str
    pair: Pair
    applied_deg: float
    applied_m: float
    residual_deg: float
    residual_m: float
    alarm: bool
    is_moved: bool


def window_trials(
    drives: Iterable[tuple[str, Sequence[SensorFrame]]],
    rotations: int,
    jitters: int,
    translations: int,
    config: CalibrationMonitorConfig | None = None,
    seed: int = 0,
) -> Iterator[WindowTrial]:
    """Evaluate windows of frames, as the monitor does, with known pose errors of each camera.

    For each camera and LiDAR of a drive: no error, `jitters` rotations of up to 0.05 degrees,
    `rotations` of 0.5 to 2 degrees, and `translations` of 5 to 20 cm, all about or along random axes.
    """
    rng = np.random.default_rng(seed)
    for name, frames in drives:
        for pair in [p for p in find_pairs(frames[0]) if p.kind == "camera-lidar"]:
            degrees = [0.0, *rng.uniform(0, JITTER_DEG, jitters)]
            degrees += [*rng.uniform(*ROTATION_RANGE_DEG, rotations), *np.zeros(translations)]
            metres = np.zeros(len(degrees))
            metres[len(degrees) - translations :] = rng.uniform(*TRANSLATION_RANGE_M, translations)
            for angle, distance in zip(degrees, metres, strict=True):
                rotation = np.radians(angle) * _unit_vector(rng)
                yield _window_trial(
                    name, frames, pair, rotation, distance * _unit_vector(rng), config
                )


def _window_trial(
    name: str,
    frames: Sequence[SensorFrame],
    pair: Pair,
    rotation: NDArray[np.float64],
    translation: NDArray[np.float64],
    config: CalibrationMonitorConfig | None,
) -> WindowTrial:
    measurements = [
        measure_rotation_error(with_pose_error(f, pair.sensor, rotation, translation), pair)
        for f in frames
    ]
    drift = estimate_drift([m for m in measurements if m is not None], config)
    residual_deg = residual_m = float("nan")
    if drift is not None:
        estimated, applied = map(Rotation.from_rotvec, (drift.rotation, rotation))
        residual_deg = float(np.degrees((estimated * applied.inv()).magnitude()))
        if drift.pose_error is not None:
            residual_m = float(np.linalg.norm(drift.pose_error.translation - translation))
    return WindowTrial(
        name,
        pair,
        float(np.degrees(np.linalg.norm(rotation))),
        float(np.linalg.norm(translation)),
        residual_deg,
        residual_m,
        drift is not None and drift.level is not Level.OK,
        drift is not None and drift.is_moved,
    )


def window_metrics(trials: Iterable[WindowTrial]) -> dict[str, Any]:
    """Detection rates, false alarm rates and median errors by sensor pair and of `all`.

    alarm_rate_translations: fraction of the translations with any alarm. translation_detection_rate:
    with an alarm that names a translation. false_translation_rate: such alarms without a translation.
    """
    groups: dict[str, list[WindowTrial]] = {"all": []}
    for trial in trials:
        groups["all"].append(trial)
        groups.setdefault(str(trial.pair), []).append(trial)
    return {name: _window_figures(group) for name, group in groups.items() if group}


def _window_figures(group: Sequence[WindowTrial]) -> dict[str, Any]:
    moved = [t for t in group if t.applied_m > 0]
    turned = [t for t in group if t.applied_deg > JITTER_DEG]
    right = [t for t in group if t.applied_m == 0 and t.applied_deg <= JITTER_DEG]
    return {
        "windows": len({(t.drive, t.pair) for t in group}),
        "rotations": len(turned),
        "detection_rate": _mean([t.alarm for t in turned]),
        "correct": len(right),
        "false_alarm_rate": _mean([t.alarm for t in right]),
        "median_error_deg": _nan_median([t.residual_deg for t in turned]),
        "translations": len(moved),
        "translation_detection_rate": _mean([t.is_moved for t in moved]),
        "alarm_rate_translations": _mean([t.alarm for t in moved]),
        "false_translation_rate": _mean([t.is_moved for t in group if t.applied_m == 0]),
        "median_translation_error_m": _nan_median([t.residual_m for t in moved]),
    }


def _mean(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if values else None


def _nan_median(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.median(known)) if known else None


def _unit_vector(rng: np.random.Generator) -> NDArray[np.float64]:
    vector = rng.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def drift_metrics(trials: Iterable[RotationTrial]) -> dict[str, Any]:
    """Detection rate, false alarm rate and residual angle by sensor pair."""
    groups: dict[str, list[RotationTrial]] = {}
    for trial in trials:
        groups.setdefault(str(trial.pair), []).append(trial)
    result = {}
    for name, group in groups.items():
        rotations = [t.alarm for t in group if t.applied_deg > JITTER_DEG]
        jitters = [t.alarm for t in group if t.applied_deg <= JITTER_DEG]
        estimated = np.array([np.isfinite(t.residual_deg) for t in group])
        errors = np.array([t.residual_deg for t in group])[estimated]
        result[name] = {
            "frames": len({t.frame for t in group}),
            "rotations": len(rotations),
            "detection_rate": float(np.mean(rotations)) if rotations else None,
            "jitters": len(jitters),
            "false_alarm_rate": float(np.mean(jitters)) if jitters else None,
            "no_estimate_rate": float(np.mean(~estimated)),
            "median_error_deg": float(np.median(errors)) if errors.size else None,
            "p90_error_deg": float(np.percentile(errors, 90)) if errors.size else None,
        }
    return result


def _median(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [r[key] for r in rows if key in r]
    return float(np.median(values)) if values else None
