"""Motion models of the object classes, and the Kalman filter of tracks on the ground plane."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Squared Mahalanobis distance (two degrees of freedom) beyond which a measurement is treated as an
# outlier, e.g. because an occluded end became visible.
OUTLIER_DISTANCE = 4.0


@dataclass(frozen=True)
class MotionModel:
    """Motion of a group of classes, and the accuracy of their measured positions.

    group: boxes of different groups are never the same object; those of group 0 match all groups.
    max_distance: maximum distance in metres of a box from the predicted position. speed_std: standard
    deviation of the speed of a new track along each axis, m/s. acceleration_std: of the acceleration,
    m/s^2. position_std: of a measured centre, metres.
    """

    group: int
    max_distance: float
    speed_std: float
    acceleration_std: float
    position_std: float


VEHICLE = MotionModel(1, 4.0, 14.0, 2.0, 0.3)
# The maximum distances are CenterPoint's (Yin et al. 2021) for half a second. The other values were
# tuned on the geometric detector's boxes in simulated drives.
MOTION_MODELS = {
    "car": VEHICLE,
    "van": VEHICLE,
    "truck": VEHICLE,
    "bus": replace(VEHICLE, max_distance=5.5),
    "pedestrian": MotionModel(2, 1.0, 2.0, 1.0, 0.2),
    "cyclist": MotionModel(2, 3.0, 5.0, 2.0, 0.2),
    "trailer": replace(VEHICLE, max_distance=5.5),
    "motorcyclist": MotionModel(2, 4.0, 10.0, 3.0, 0.2),
    "cone": MotionModel(3, 1.0, 0.3, 0.3, 0.1),
    "barrier": MotionModel(3, 1.0, 0.3, 0.3, 0.3),
}
DEFAULT_MOTION_MODEL = MotionModel(0, 2.0, 2.0, 2.0, 0.3)


@dataclass
class Tracks:
    """State of T tracks.

    ids: (T,) int64. states: (T, 4), x y vx vy. covariance: (T, 3), variance of the position, covariance
    of position and velocity, variance of the velocity; equal along x and y, like all noise here. motion:
    (T, 5), values of MotionModel. last_seen_ns: (T,) stamp of the last detection. hits: (T,) number of
    frames with a detection. has_measured_velocity: (T,) bool, whether a detector measured the velocity.
    """

    ids: NDArray[np.int64]
    states: Array
    covariance: Array
    motion: Array
    last_seen_ns: NDArray[np.int64]
    hits: NDArray[np.int64]
    has_measured_velocity: NDArray[np.bool_]

    @classmethod
    def empty(cls) -> Tracks:
        zeros = np.zeros(0, np.int64)
        states, covariance, motion = np.zeros((0, 4)), np.zeros((0, 3)), np.zeros((0, 5))
        return cls(zeros, states, covariance, motion, zeros, zeros, np.zeros(0, np.bool_))

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Tracks:
        return Tracks(*(getattr(self, f.name)[index] for f in fields(self)))

    def concatenate(self, other: Tracks) -> Tracks:
        names = [f.name for f in fields(self)]
        return Tracks(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def predict(self, seconds: float) -> None:
        """Kalman prediction: constant velocity, white acceleration noise.

        Bar-Shalom et al. 2001, section 6.3.2.
        """
        t, c = seconds, self.covariance
        q = self.motion[:, 3] ** 2
        self.states[:, :2] += t * self.states[:, 2:]
        c[:, 0] += 2 * t * c[:, 1] + t**2 * c[:, 2] + q * t**4 / 4
        c[:, 1] += t * c[:, 2] + q * t**3 / 2
        c[:, 2] += q * t**2

    def correct(self, rows: NDArray[np.int64], centres: Array, variances: Array) -> None:
        """Kalman update of the tracks `rows` (K,) by centres (K, 2) with variances (K,)."""
        position, mixed, velocity = self.covariance[rows].T
        innovation = centres - self.states[rows, :2]
        # The variance of outliers is increased (Huber 1981), so that a jump does not become a velocity.
        squared = (innovation**2).sum(axis=1)
        variances = np.maximum(variances, squared / OUTLIER_DISTANCE - position)
        gain = np.column_stack([position, mixed]) / (position + variances)[:, None]
        self.states[rows, :2] += gain[:, :1] * innovation
        self.states[rows, 2:] += gain[:, 1:] * innovation
        remaining = 1.0 - gain[:, 0]
        self.covariance[rows] = np.column_stack(
            [remaining * position, remaining * mixed, velocity - gain[:, 1] * mixed]
        )

    def correct_velocities(
        self, rows: NDArray[np.int64], velocities: Array, variances: Array
    ) -> None:
        """Kalman update of the tracks `rows` (K,) by velocities (K, 2) with variances (K,)."""
        position, mixed, velocity = self.covariance[rows].T
        innovation = velocities - self.states[rows, 2:]
        squared = (innovation**2).sum(axis=1)
        variances = np.maximum(variances, squared / OUTLIER_DISTANCE - velocity)
        gain = np.column_stack([mixed, velocity]) / (velocity + variances)[:, None]
        self.states[rows, :2] += gain[:, :1] * innovation
        self.states[rows, 2:] += gain[:, 1:] * innovation
        remaining = 1.0 - gain[:, 1]
        self.covariance[rows] = np.column_stack(
            [position - gain[:, 0] * mixed, remaining * mixed, remaining * velocity]
        )
        self.has_measured_velocity[rows] = True
