"""Multi-object tracking: track ids and velocities for the boxes of consecutive frames.

Tracking by detection in the ground plane. Association follows CenterPoint (Yin et al. 2021, section
4.3): boxes in order of their scores are assigned to the nearest free track of their group of classes.
The detectors do not predict velocities, so the distance is the Mahalanobis distance to the position
that a Kalman filter of constant velocity predicts (Chiu et al. 2020, section III). Creation, deletion
and coasting of tracks follow AB3DMOT (Weng et al. 2020, section III-E).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

Array = NDArray[np.float64]
# Squared Mahalanobis distance (two degrees of freedom) beyond which a box belongs to another object, and
# beyond which its centre is treated as an outlier, e.g. because an occluded end became visible.
GATE, OUTLIER_DISTANCE = 25.0, 4.0
# Tracks with at least this many detections are kept for the full `max_coast_s`, others for a third
# of it. The velocity of a fast object is reported from this number on.
CONFIRMED_HITS = 3
NO_TRACK = -1
# Standard deviation of the speed of objects relative to a vehicle whose own motion is unknown, m/s.
RELATIVE_SPEED_STD = 10.0
# Time for which the vehicle's motion is extrapolated if odometry is late.
MAX_ODOMETRY_DELAY_S = 0.3


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
    "cone": MotionModel(3, 1.0, 0.3, 0.3, 0.1),
    "barrier": MotionModel(3, 1.0, 0.3, 0.3, 0.3),
}
DEFAULT_MOTION_MODEL = MotionModel(0, 2.0, 2.0, 2.0, 0.3)


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
    max_coast_s: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "s"})
    max_tracks: int = field(default=500, metadata={"min": 1, "max": 5000})
    max_velocity_std: float = field(default=2.0, metadata={"min": 0.05, "max": 50.0, "unit": "m/s"})
    stationary: bool = False


@dataclass
class _Tracks:
    """State of T tracks.

    ids: (T,) int64. states: (T, 4), x y vx vy. covariance: (T, 3), variance of the position, covariance
    of position and velocity, variance of the velocity; equal along x and y, like all noise here. motion:
    (T, 5), values of MotionModel. last_seen_ns: (T,) stamp of the last detection. hits: (T,) number of
    frames with a detection.
    """

    ids: NDArray[np.int64]
    states: Array
    covariance: Array
    motion: Array
    last_seen_ns: NDArray[np.int64]
    hits: NDArray[np.int64]

    @classmethod
    def empty(cls) -> _Tracks:
        zeros = np.zeros(0, np.int64)
        return cls(zeros, np.zeros((0, 4)), np.zeros((0, 3)), np.zeros((0, 5)), zeros, zeros)

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> _Tracks:
        return _Tracks(*(getattr(self, f.name)[index] for f in fields(self)))

    def concatenate(self, other: _Tracks) -> _Tracks:
        names = [f.name for f in fields(self)]
        return _Tracks(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

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
        self._tracks = _Tracks.empty()
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
        base_frame, NaN where not known well enough (new objects); None without odometry. Updating
        with the same frame again gives the same result.
        """
        if boxes.frame_id != frame.base_frame:
            self.counts["wrong_frame"] += len(boxes)
            return boxes
        if not self._advance(frame):
            return boxes
        rows, centres, variances = self._measurements(boxes)
        track_of = self._associate(rows, boxes, centres, variances, frame.stamp_ns)
        result = self._with_tracks(boxes, rows, track_of)
        self._prune(frame.stamp_ns)
        return result

    def reset(self) -> None:
        """Delete all tracks and the vehicle's recent motion."""
        self._tracks = _Tracks.empty()
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

    def _measurements(self, boxes: Boxes3D) -> tuple[NDArray[np.int64], Array, Array]:
        """Indices (K,) of valid boxes, highest score first; their centres (K, 2) and variances (K,)."""
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
        return rows, centres[:, :2], variances

    def _associate(
        self,
        rows: NDArray[np.int64],
        boxes: Boxes3D,
        centres: Array,
        variances: Array,
        now_ns: int,
    ) -> NDArray[np.int64]:
        """Index (K,) of each box's track. Matched tracks are corrected, new ones are created."""
        tracks = self._tracks
        motion = _motion_of(boxes, rows)
        track_of = _assign(
            centres, variances, motion, tracks.states, tracks.covariance[:, 0], tracks.motion
        )
        matched = np.flatnonzero(track_of >= 0)
        # The same frame again does not contain new information.
        matched = matched[tracks.last_seen_ns[track_of[matched]] < now_ns]
        own = track_of[matched]
        tracks.correct(own, centres[matched], variances[matched])
        tracks.last_seen_ns[own] = now_ns
        tracks.hits[own] += 1
        tracks.motion[own] = motion[matched]
        new = np.flatnonzero(track_of < 0)
        track_of[new] = len(tracks.ids) + np.arange(len(new))
        created = self._create(centres[new], variances[new], motion[new], now_ns)
        self._tracks = tracks.concatenate(created)
        return track_of

    def _create(self, centres: Array, variances: Array, motion: Array, now_ns: int) -> _Tracks:
        n = len(centres)
        ids = np.arange(self._next_id, self._next_id + n)
        self._next_id += n
        states = np.column_stack([centres, np.zeros((n, 2))])
        # Relative to a vehicle with unknown motion, even static objects may move.
        relative = self._pose is None and not self.config.stationary
        speed_std = np.maximum(motion[:, 2], RELATIVE_SPEED_STD if relative else 0.0)
        covariance = np.column_stack([variances, np.zeros(n), speed_std**2])
        last_seen_ns = np.full(n, now_ns, np.int64)
        return _Tracks(ids, states, covariance, motion, last_seen_ns, np.ones(n, np.int64))

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
            return replace(boxes, track_ids=ids, velocities=None)
        velocity_std = np.sqrt(tracks.covariance[:, 2])
        speed = np.hypot(*tracks.states[:, 2:].T)
        known = (velocity_std <= self.config.max_velocity_std) & (tracks.hits > 1)
        known |= (velocity_std <= speed / 4) & (tracks.hits >= CONFIRMED_HITS)
        values = np.where(known[:, None], tracks.states[:, 2:], np.nan)[track_of]
        if pose is not None:
            yaw = poses.to_yaw(pose)
            c, s = np.cos(yaw), np.sin(yaw)
            values = values @ np.array([[c, -s], [s, c]])
        velocities = np.full((len(boxes), 2), np.nan, np.float32)
        velocities[rows] = values
        return replace(boxes, track_ids=ids, velocities=velocities)


def _motion_of(boxes: Boxes3D, rows: NDArray[np.int64]) -> Array:
    """MotionModel values (K, 5) of the boxes `rows` (K,), by their classes."""
    models = [MOTION_MODELS.get(name, DEFAULT_MOTION_MODEL) for name in boxes.class_names]
    table = np.array(
        [[getattr(m, f.name) for f in fields(MotionModel)] for m in models], np.float64
    )
    return np.asarray(table[boxes.labels[rows]])


@numba.njit(cache=True, nogil=True)
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
