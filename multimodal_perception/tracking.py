"""Multi-object tracking: track ids and velocities for the boxes of consecutive frames.

Tracking by detection in the ground plane. Association follows CenterPoint (Yin et al. 2021, section
4.3): boxes in order of their scores are assigned to the nearest free track of their group of classes.
The distance is the Mahalanobis distance to the position that a Kalman filter of constant velocity
predicts (Chiu et al. 2020, section III). Velocities of a detector, if it has any, are measurements of
the filter. Creation, deletion
and coasting of tracks follow AB3DMOT (Weng et al. 2020, section III-E).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.kernels import njit
from multimodal_perception.track_filter import (
    DEFAULT_MOTION_MODEL,
    MOTION_MODELS,
    Array,
    MotionModel,
    Tracks,
)

# Squared Mahalanobis distance (two degrees of freedom) beyond which a box belongs to another object.
GATE = 25.0
# Tracks with at least this many detections are kept for the full `max_coast_s`, others for a third
# of it. The velocity of a fast object is reported from this number on.
CONFIRMED_HITS = 3
NO_TRACK = -1
# A detector derives velocities from several past sweeps, so that those of consecutive frames share most
# of their errors. Their variance is multiplied by this factor, and limited from below, m^2/s^2.
VELOCITY_VARIANCE_FACTOR, MIN_VELOCITY_VARIANCE = 4.0, 0.04
# Standard deviation of the speed of objects relative to a vehicle whose own motion is unknown, m/s.
RELATIVE_SPEED_STD = 10.0
# Time for which the vehicle's motion is extrapolated if odometry is late.
MAX_ODOMETRY_DELAY_S = 0.3


@dataclass(frozen=True)
class TrackingConfig:
    """Tracking of objects.

    Attributes:
        enabled: Whether boxes get track ids and velocities. Disable it if you have your own
            tracker.
        max_coast_s: Time for which a track without a detection is kept. Increase it for longer
            occlusions; larger values can assign the id of an object that left to a new one nearby.
        max_tracks: Maximum number of tracks. Increase it for crowds; boxes beyond it get no id.
        max_velocity_std: Velocities with a larger standard deviation are not reported, unless it is
            below a quarter of the speed. Decrease it to get more accurate but fewer velocities.
        stationary: Whether the sensors never move, e.g. at a crossroads. Enable it for stationary
            installations, to get velocities over ground without odometry.
    """

    enabled: bool = True
    max_coast_s: float = field(
        default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "s", "dynamic": True}
    )
    max_tracks: int = field(default=500, metadata={"min": 1, "max": 5000})
    max_velocity_std: float = field(
        default=2.0, metadata={"min": 0.05, "max": 50.0, "unit": "m/s", "dynamic": True}
    )
    stationary: bool = False


@dataclass(frozen=True)
class _Measurements:
    """Valid boxes of a frame, highest score first.

    rows: (K,) indices of the boxes. centres: (K, 2) in the frame of the tracks. variances: (K,) of the
    centres along each axis. velocities: (K, 2) over ground along the axes of the tracks' frame, NaN
    where not measured. velocity_variances: (K,) along each axis.
    """

    rows: NDArray[np.int64]
    centres: Array
    variances: Array
    velocities: Array
    velocity_variances: Array


class Tracker:
    """Assigns track_ids to boxes and, where the vehicle's motion is known, velocities over ground.

    Tracks are kept in the odometry frame. Without odometry they are kept in base_link: objects keep
    their ids, but there are no velocities, because the motion of objects and of the vehicle cannot be
    separated (see TrackingConfig.stationary). If odometry is late, the vehicle's motion is
    extrapolated for up to MAX_ODOMETRY_DELAY_S; after that, frames without odometry are skipped. Ids
    start at 1 and are never used again, not even after a reset.

    counts: resets, skipped frames and boxes without a track, by reason: time_back (stamps went back,
    e.g. a bag in a loop), odometry_jump, odometry_found (odometry became available), bad_pose,
    no_pose, wrong_frame, bad_box, too_many.
    """

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self.counts: Counter[str] = Counter()
        self._tracks = Tracks.empty()
        self._next_id = 1
        self._stamp_ns: int | None = None
        self._pose: Array | None = None
        self._recent_poses: list[tuple[int, Array]] = []

    def __len__(self) -> int:
        """Number of tracks."""
        return len(self._tracks.ids)

    def update(self, boxes: Boxes3D, frame: SensorFrame) -> Boxes3D:
        """The boxes of a frame, in its base_frame, with track_ids and velocities.

        track_ids: -1 for boxes without a track. velocities: m/s over ground along the axes of
        base_frame, NaN where not known well enough (new objects without a measured velocity); None
        without odometry. velocity_covariances: of these velocities. Updating with the same frame again
        gives the same result.
        """
        if boxes.frame_id != frame.base_frame:
            self.counts["wrong_frame"] += len(boxes)
            return boxes
        if not self._advance(frame):
            return boxes
        measured = self._measurements(boxes)
        track_of = self._associate(measured, boxes, frame.stamp_ns)
        result = self._with_tracks(boxes, measured.rows, track_of)
        self._prune(frame.stamp_ns)
        return result

    def reset(self) -> None:
        """Delete all tracks and the vehicle's recent motion."""
        self._tracks = Tracks.empty()
        self._pose, self._recent_poses = None, []

    def _advance(self, frame: SensorFrame) -> bool:
        """Predict the tracks to a frame's stamp; False if the vehicle's pose at it is unknown."""
        stamp_ns, elapsed_s = frame.stamp_ns, 0.0
        if self._stamp_ns is not None:
            elapsed_s = (stamp_ns - self._stamp_ns) / NANOSECONDS_PER_SECOND
        if elapsed_s < 0:
            self._restart("time_back")
            elapsed_s = 0.0
        pose = self._vehicle_pose(frame)
        if pose is None and self._pose is not None:
            if elapsed_s <= self.config.max_coast_s:
                return False
            self.reset()
        elif pose is not None and self._pose is None and len(self):
            self._restart("odometry_found")
        elif (
            pose is not None
            and self._pose is not None
            and poses.is_odometry_jump(self._pose, pose, elapsed_s)
        ):
            self._restart("odometry_jump")
        is_measured = pose is frame.odom_from_base
        is_newer = not self._recent_poses or stamp_ns > self._recent_poses[-1][0]
        if pose is not None and is_measured and is_newer:
            self._recent_poses = [*self._recent_poses[-1:], (stamp_ns, pose)]
        self._stamp_ns, self._pose = stamp_ns, pose
        # Tracks are useless after a gap longer than the coasting time.
        age_s = (stamp_ns - self._tracks.last_seen_ns) / NANOSECONDS_PER_SECOND
        self._tracks = self._tracks.select(age_s <= self.config.max_coast_s)
        self._tracks.predict(elapsed_s)
        return True

    def _vehicle_pose(self, frame: SensorFrame) -> Array | None:
        """odom_from_base of the frame, or extrapolated from the last two poses; None if unknown."""
        pose = frame.odom_from_base
        if pose is not None and poses.is_rigid(pose):
            return pose
        if pose is not None:
            self.counts["bad_pose"] += 1
        elif self._pose is not None:
            self.counts["no_pose"] += 1
        if len(self._recent_poses) < 2:
            return None
        (first_ns, first), (last_ns, last) = self._recent_poses
        step_ns, delay_ns = last_ns - first_ns, frame.stamp_ns - last_ns
        if not 0 <= delay_ns <= min(MAX_ODOMETRY_DELAY_S * NANOSECONDS_PER_SECOND, 3 * step_ns):
            return None
        return poses.interpolate(first, last, 1.0 + delay_ns / step_ns)

    def _restart(self, reason: str) -> None:
        self.counts[reason] += 1
        self.reset()

    def _measurements(self, boxes: Boxes3D) -> _Measurements:
        valid = np.isfinite(boxes.boxes[:, :3]).all(axis=1) & np.isfinite(boxes.scores)
        if not valid.all():
            self.counts["bad_box"] += int((~valid).sum())
        rows = np.flatnonzero(valid)
        rows = rows[np.argsort(-boxes.scores[rows], kind="stable")]
        if len(rows) > self.config.max_tracks:
            self.counts["too_many"] += len(rows) - self.config.max_tracks
            rows = rows[: self.config.max_tracks]
        centres = boxes.boxes[rows, :3].astype(np.float64)
        if self._pose is not None:
            centres = np.asarray(poses.transform_points(self._pose, centres), np.float64)
        variances = _motion_of(boxes, rows)[:, 4] ** 2
        if boxes.covariances is not None:
            reported = boxes.covariances[rows][:, [0, 1], [0, 1]].mean(axis=1)
            variances = np.maximum(variances, np.where(np.isfinite(reported), reported, 0.0))
        return _Measurements(rows, centres[:, :2], variances, *self._velocities(boxes, rows))

    def _velocities(self, boxes: Boxes3D, rows: NDArray[np.int64]) -> tuple[Array, Array]:
        """Measured velocities (K, 2) in the frame of the tracks, NaN where unknown; variances (K,).

        Only velocities with a covariance are used, and only if the tracks have velocities over ground.
        """
        velocities = np.full((len(rows), 2), np.nan)
        variances = np.full(len(rows), np.nan)
        covariances = boxes.velocity_covariances
        usable = self._pose is not None or self.config.stationary
        if boxes.velocities is None or covariances is None or not usable:
            return velocities, variances
        own = covariances[rows].astype(np.float64)
        reported = VELOCITY_VARIANCE_FACTOR * own[:, [0, 1], [0, 1]].mean(axis=1)
        values = boxes.velocities[rows].astype(np.float64)
        valid = np.isfinite(values).all(axis=1) & (reported > 0) & np.isfinite(reported)
        if self._pose is not None:
            yaw = poses.to_yaw(self._pose)
            c, s = np.cos(yaw), np.sin(yaw)
            values = values @ np.array([[c, s], [-s, c]])
        velocities[valid] = values[valid]
        variances[valid] = np.maximum(reported[valid], MIN_VELOCITY_VARIANCE)
        return velocities, variances

    def _associate(self, measured: _Measurements, boxes: Boxes3D, now_ns: int) -> NDArray[np.int64]:
        """Index (K,) of each box's track. Matched tracks are corrected, new ones are created."""
        tracks, m = self._tracks, measured
        motion = _motion_of(boxes, m.rows)
        track_of = _assign(
            m.centres, m.variances, motion, tracks.states, tracks.covariance[:, 0], tracks.motion
        )
        matched = np.flatnonzero(track_of >= 0)
        # The same frame again does not contain new information.
        matched = matched[tracks.last_seen_ns[track_of[matched]] < now_ns]
        own = track_of[matched]
        tracks.correct(own, m.centres[matched], m.variances[matched])
        known = np.isfinite(m.velocity_variances[matched])
        tracks.correct_velocities(
            own[known], m.velocities[matched[known]], m.velocity_variances[matched[known]]
        )
        tracks.last_seen_ns[own] = now_ns
        tracks.hits[own] += 1
        tracks.motion[own] = motion[matched]
        new = np.flatnonzero(track_of < 0)
        track_of[new] = len(tracks.ids) + np.arange(len(new))
        created = self._create(m.centres[new], m.variances[new], motion[new], now_ns)
        known = np.isfinite(m.velocity_variances[new])
        created.correct_velocities(
            np.flatnonzero(known), m.velocities[new[known]], m.velocity_variances[new[known]]
        )
        self._tracks = tracks.concatenate(created)
        return track_of

    def _create(self, centres: Array, variances: Array, motion: Array, now_ns: int) -> Tracks:
        n = len(centres)
        ids = np.arange(self._next_id, self._next_id + n)
        self._next_id += n
        states = np.column_stack([centres, np.zeros((n, 2))])
        # Relative to a vehicle with unknown motion, even static objects may move.
        relative = self._pose is None and not self.config.stationary
        speed_std = np.maximum(motion[:, 2], RELATIVE_SPEED_STD if relative else 0.0)
        covariance = np.column_stack([variances, np.zeros(n), speed_std**2])
        last_seen_ns = np.full(n, now_ns, np.int64)
        hits, unmeasured = np.ones(n, np.int64), np.zeros(n, np.bool_)
        return Tracks(ids, states, covariance, motion, last_seen_ns, hits, unmeasured)

    def _prune(self, now_ns: int) -> None:
        """Delete tracks without recent detections, and the oldest ones beyond max_tracks."""
        c, tracks = self.config, self._tracks
        age_s = (now_ns - tracks.last_seen_ns) / NANOSECONDS_PER_SECOND
        max_age_s = np.where(tracks.hits >= CONFIRMED_HITS, c.max_coast_s, c.max_coast_s / 3)
        kept = np.flatnonzero((age_s <= max_age_s) | (age_s == 0))
        newest = np.lexsort((tracks.ids[kept], tracks.last_seen_ns[kept]))[-c.max_tracks :]
        self._tracks = tracks.select(np.sort(kept[newest]))

    def _with_tracks(
        self, boxes: Boxes3D, rows: NDArray[np.int64], track_of: NDArray[np.int64]
    ) -> Boxes3D:
        """The boxes with the ids of their tracks and, if known, their velocities."""
        tracks, pose = self._tracks, self._pose
        ids = np.full(len(boxes), NO_TRACK, np.int64)
        ids[rows] = tracks.ids[track_of]
        if pose is None and not self.config.stationary:
            return replace(boxes, track_ids=ids, velocities=None, velocity_covariances=None)
        velocity_std = np.sqrt(tracks.covariance[:, 2])
        speed = np.hypot(*tracks.states[:, 2:].T)
        observed = (tracks.hits > 1) | tracks.has_measured_velocity
        known = (velocity_std <= self.config.max_velocity_std) & observed
        known |= (velocity_std <= speed / 4) & (tracks.hits >= CONFIRMED_HITS)
        values = np.where(known[:, None], tracks.states[:, 2:], np.nan)[track_of]
        if pose is not None:
            yaw = poses.to_yaw(pose)
            c, s = np.cos(yaw), np.sin(yaw)
            values = values @ np.array([[c, -s], [s, c]])
        velocities = np.full((len(boxes), 2), np.nan, np.float32)
        velocities[rows] = values
        variances = np.full(len(boxes), np.nan)
        variances[rows] = np.where(known, tracks.covariance[:, 2], np.nan)[track_of]
        covariances = (variances[:, None, None] * np.eye(2)).astype(np.float32)
        covariances[np.isnan(variances)] = np.nan
        return replace(
            boxes, track_ids=ids, velocities=velocities, velocity_covariances=covariances
        )


def _motion_of(boxes: Boxes3D, rows: NDArray[np.int64]) -> Array:
    """MotionModel values (K, 5) of the boxes `rows` (K,), by their classes."""
    models = [MOTION_MODELS.get(name, DEFAULT_MOTION_MODEL) for name in boxes.class_names]
    table = np.array(
        [[getattr(m, f.name) for f in fields(MotionModel)] for m in models], np.float64
    )
    return np.asarray(table[boxes.labels[rows]])


@njit(nogil=True)
def _assign(centres, variances, motion, states, track_variances, track_motion):  # type: ignore[no-untyped-def]
    """Index (K,) of each box's track, -1 for none: greedily the nearest free one, in box order."""
    result = np.full(len(centres), -1, np.int64)
    taken = np.zeros(len(states), np.bool_)
    for i in range(len(centres)):
        nearest = GATE
        for k in range(len(states)):
            group, track_group = motion[i, 0], track_motion[k, 0]
            if taken[k] or (group != track_group and group != 0 and track_group != 0):
                continue
            dx, dy = centres[i, 0] - states[k, 0], centres[i, 1] - states[k, 1]
            squared = dx * dx + dy * dy
            max_distance = max(motion[i, 1], track_motion[k, 1])
            mahalanobis = squared / (track_variances[k] + variances[i])
            if squared <= max_distance * max_distance and mahalanobis <= nearest:
                nearest = mahalanobis
                result[i] = k
        if result[i] >= 0:
            taken[result[i]] = True
    return result
