"""Calibration drift of sensor pairs, estimated from measurements over many frames."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.pose_error import PoseError, estimate_pose_error
from multimodal_perception.calibration_monitor.sensor_pairs import (
    Pair,
    RotationMeasurement,
    find_pairs,
    measure_rotation_error,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level

# The agreement of two sensors is the mean inlier fraction (fraction of agreeing blocks) of the newest
# AGREEMENT_MEASUREMENTS measurements, mapped from AGREEMENT_INLIER_FRACTION to 0 .. 1. On simulated
# drives the mean inlier fraction was 0.13 to 0.42 for images of different streets and 0.4 to 0.84 for
# the same street.
AGREEMENT_MEASUREMENTS, AGREEMENT_INLIER_FRACTION = 4, (0.25, 0.4)
# Mahalanobis distance (chi with three degrees of freedom) at which the Cauchy weight of a measurement
# is one half. It reduces the influence of false matches.
CAUCHY_SCALE = 3.0
ITERATIONS = 10


@dataclass(frozen=True)
class CalibrationMonitorConfig:
    """Parameters of the calibration monitor, which compares extrinsics with sensor data.

    Attributes:
        period_s: Time between two measurements; each measurement takes the next sensor pair.
            Increase it to save computing time. Set it to 0 to switch the monitor off.
        window: Number of newest measurements per sensor pair from which the drift is estimated.
            Increase it for a more stable estimate; decrease it to react faster to a sensor that was
            moved.
        systematic_px: Standard deviation of the error that averaging does not remove (parallax,
            edges that differ between the sensors), in pixels after downscaling the image to at most
            640 px width. Increase it if correctly calibrated sensors cause warnings.
        min_significance: Minimum ratio of the drift to its standard deviation for a warning; 2.8
            corresponds to a false alarm rate of 5 % from random errors. Increase it to get fewer
            false warnings.
        warn_deg: Drift angle above which a significant drift is reported as a warning. Lower it for
            long-range perception, where small rotation errors matter more.
        error_deg: Drift angle above which a significant drift is reported as an error. Set it to
            the angle at which detections of your sensors become unusable.
        warn_translation: Translation above which a significant translation of a camera relative to a
            LiDAR is reported as a warning. Lower it for close-range perception; increase it if correctly
            calibrated sensors cause warnings.
        min_inlier_fraction: Minimum fraction of image blocks that must agree with the measured
            rotation. Lower it if valid measurements in scenes with few edges are rejected.
        min_peak_margin: Minimum margin of the best rotation over all other candidates, in standard
            deviations of the candidates' scores. Increase it if false matches disturb the estimate.
    """

    period_s: float = field(default=5.0, metadata={"min": 0.0, "max": 3600.0, "unit": "s"})
    window: int = field(default=12, metadata={"min": 1, "max": 1000})
    systematic_px: float = field(default=0.7, metadata={"min": 0.0, "max": 50.0, "unit": "px"})
    min_significance: float = field(default=3.0, metadata={"min": 0.0, "max": 100.0})
    warn_deg: float = field(default=0.3, metadata={"min": 0.0, "max": 45.0, "unit": "deg"})
    error_deg: float = field(default=1.0, metadata={"min": 0.0, "max": 45.0, "unit": "deg"})
    warn_translation: float = field(default=0.03, metadata={"min": 0.0, "max": 10.0, "unit": "m"})
    min_inlier_fraction: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    min_peak_margin: float = field(default=0.2, metadata={"min": 0.0, "max": 100.0})


@dataclass(frozen=True)
class Drift:
    """Drift of a pair, estimated from several measurements.

    rotation: (3,), rad, see sensor_pairs.RotationMeasurement. covariance: (3, 3), random and systematic
    error. shift, shift_sd: (2,) x y, displacement of the centre of the sensor's full-size image, px, and
    its standard deviation. significance: distance from zero drift in standard deviations. measurements:
    number of usable measurements. pose_error: rotation and translation together, of pairs with a LiDAR
    and enough measurements; is_moved: whether its translation is significant and large. The rotation and
    its covariance are then those of the pose error.
    """

    pair: Pair
    rotation: NDArray[np.float64]
    covariance: NDArray[np.float64]
    shift: NDArray[np.float64]
    shift_sd: NDArray[np.float64]
    significance: float
    measurements: int
    level: Level
    message: str
    pose_error: PoseError | None = None
    is_moved: bool = False

    @property
    def degrees(self) -> float:
        """Rotation angle, degrees."""
        return float(np.degrees(np.linalg.norm(self.rotation)))

    @property
    def degrees_sd(self) -> float:
        """Standard deviation of the angle, degrees; for a zero rotation the largest of any axis."""
        length = float(np.linalg.norm(self.rotation))
        if length < 1e-9:
            return float(np.degrees(np.sqrt(np.linalg.eigvalsh(self.covariance)[-1])))
        axis = self.rotation / length
        return float(np.degrees(np.sqrt(axis @ self.covariance @ axis)))


def estimate_drift(
    measurements: Sequence[RotationMeasurement], config: CalibrationMonitorConfig | None = None
) -> Drift | None:
    """Estimate the drift of one pair from its measurements; None if none of them is usable.

    The result is a mean weighted by the inverse covariances and by Cauchy weights of the distance from
    the mean, as some measurements are false matches. Its covariance is the larger one of the propagated
    covariance and the scatter of the measurements, plus the systematic error (systematic_px), which
    measurements of the same scene have in common.
    """
    config = config or CalibrationMonitorConfig()
    usable = [m for m in measurements if is_usable(m, config)]
    if not usable:
        return None
    rotations = np.array([m.rotation for m in usable])
    systematic = np.diag((config.systematic_px * usable[-1].radians_per_pixel) ** 2)
    inverses = [np.linalg.inv(m.covariance + systematic) for m in usable]
    mean = np.median(rotations, 0)
    for _ in range(ITERATIONS):
        residuals = rotations - mean
        squared = np.einsum("ki,kij,kj->k", residuals, inverses, residuals)
        weights = 1.0 / (1.0 + squared / CAUCHY_SCALE**2)
        information = np.einsum("k,kij->ij", weights, inverses)
        weighted_sum = np.einsum("k,kij,kj->i", weights, inverses, rotations)
        mean = np.linalg.solve(information, weighted_sum)
    normalised = weights / weights.sum()
    propagated = np.einsum("k,kij->ij", normalised**2, np.array([m.covariance for m in usable]))
    scatter = np.einsum("k,ki,kj->ij", normalised**2, rotations - mean, rotations - mean)
    larger = propagated if np.trace(propagated) > np.trace(scatter) else scatter
    covariance = larger + systematic
    pose_error = estimate_pose_error([m.blocks for m in usable if m.blocks is not None])
    is_moved = pose_error is not None and (
        pose_error.translation_significance > config.min_significance
        and pose_error.distance > config.warn_translation
    )
    if pose_error is not None and is_moved:
        mean, covariance = pose_error.rotation, pose_error.covariance[:3, :3] + systematic
    significance = float(np.sqrt(mean @ np.linalg.solve(covariance, mean)))
    angle = float(np.degrees(np.linalg.norm(mean)))
    focal = usable[-1].focal
    shift = np.array([focal[0] * mean[1], -focal[1] * mean[0]])
    shift_sd = focal * np.sqrt(np.diag(covariance))[[1, 0]]
    level, message = Level.OK, "ok"
    if significance > config.min_significance and angle > config.warn_deg:
        level = Level.ERROR if angle > config.error_deg else Level.WARN
        message = f"rotated by {angle:.2f} deg relative to {usable[-1].pair.reference}"
    if pose_error is not None and is_moved:
        moved = (
            f"moved by {100 * pose_error.distance:.0f} cm relative to {usable[-1].pair.reference}"
        )
        message = moved if level is Level.OK else f"{message}; {moved}"
        level = max(level, Level.WARN)
    return Drift(
        usable[-1].pair,
        mean,
        covariance,
        shift,
        shift_sd,
        significance,
        len(usable),
        level,
        message,
        pose_error,
        is_moved,
    )


def is_usable(measurement: RotationMeasurement, config: CalibrationMonitorConfig) -> bool:
    """Whether enough blocks agree and the best rotation is clearly better than the others."""
    return (
        measurement.inlier_fraction >= config.min_inlier_fraction
        and measurement.peak_margin >= config.min_peak_margin
    )


class CalibrationMonitor:
    """Measures one sensor pair per frame, in round-robin order, and estimates the drift of each pair.

    drifts: by pair. The mapping is replaced, never modified, so that other threads can read it. counts:
    measurements, and rejected measurements by `pair.reason`. cancelled: set it to a callable that
    returns true to stop a measurement early. The monitor reports drift and never corrects it.
    """

    def __init__(self, config: CalibrationMonitorConfig | None = None) -> None:
        self.config = config or CalibrationMonitorConfig()
        self.drifts: Mapping[Pair, Drift] = {}
        self.counts: Counter[str] = Counter()
        self.cancelled: Callable[[], bool] = lambda: False
        self._measurements: dict[Pair, deque[RotationMeasurement]] = {}
        self._measured: Counter[Pair] = Counter()
        self._reached_agreement: dict[Pair, bool] = {}
        self._stamp_ns: int | None = None

    @property
    def agreement(self) -> dict[str, float]:
        """Agreement of each image sensor with another sensor's data, 0 to 1.

        If a sensor belongs to several pairs, the highest agreement counts, as one agreeing pair
        shows that the sensor works. Sensors with too few measurements are left out, and so are
        sensors that never reached the agreement threshold, as the scene may have no edges that both
        sensors can detect.
        """
        result: dict[str, float] = {}
        for pair, measurements in list(self._measurements.items()):
            inlier_fractions = [m.inlier_fraction for m in list(measurements)]
            reached = self._reached_agreement.get(pair, False)
            if len(inlier_fractions) < AGREEMENT_MEASUREMENTS or not reached:
                continue
            mean = float(np.mean(inlier_fractions[-AGREEMENT_MEASUREMENTS:]))
            low, high = AGREEMENT_INLIER_FRACTION
            factor = float(np.clip((mean - low) / (high - low), 0.0, 1.0))
            sensors = [pair.sensor]
            if pair.kind == "thermal-camera":
                sensors.append(pair.reference)
            for sensor in sensors:
                result[sensor] = max(result.get(sensor, 0.0), factor)
        return result

    def observe(self, frame: SensorFrame) -> RotationMeasurement | None:
        """Measure the least often measured pair of this frame; None without a result."""
        if self._stamp_ns is not None and frame.stamp_ns < self._stamp_ns:
            # The stamps jumped back: another recording, or the same one was restarted.
            self._measurements, self.drifts = {}, {}
        self._stamp_ns = frame.stamp_ns
        pairs = list(find_pairs(frame))
        if not pairs:
            return None
        pair = min(pairs, key=lambda p: self._measured[p])
        self._measured[pair] += 1
        self.counts[f"{pair}.measurements"] += 1
        measurement = measure_rotation_error(frame, pair, self.cancelled)
        if measurement is None:
            if not self.cancelled():
                self.counts[f"{pair}.too_few_common_edges"] += 1
            return None
        if measurement.inlier_fraction < self.config.min_inlier_fraction:
            self.counts[f"{pair}.low_inlier_fraction"] += 1
        elif not is_usable(measurement, self.config):
            self.counts[f"{pair}.ambiguous"] += 1
        measurements = self._measurements.setdefault(pair, deque(maxlen=self.config.window))
        measurements.append(measurement)
        recent = [m.inlier_fraction for m in measurements][-AGREEMENT_MEASUREMENTS:]
        if (
            len(recent) == AGREEMENT_MEASUREMENTS
            and np.mean(recent) >= AGREEMENT_INLIER_FRACTION[1]
        ):
            self._reached_agreement[pair] = True
        drift = estimate_drift(measurements, self.config)
        if drift is not None:
            self.drifts = {**self.drifts, pair: drift}
        return measurement
