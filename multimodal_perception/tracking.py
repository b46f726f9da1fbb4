"""Boxes of one frame after another to tracks: the same number for the same object, and how fast it goes.

Association after CenterPoint (Yin et al. 2021, section 4.3): boxes in the order of their scores take the
nearest free track of their kind, here by the Mahalanobis distance to where a Kalman filter of constant
velocity expects it (Chiu et al. 2020, section III), as the detectors tell no velocities of their own.
Births, deaths and coasting are those of AB3DMOT (Weng et al. 2020, section III-E).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS

Array = NDArray[np.float64]
# Squared distances in standard deviations, two degrees of freedom: beyond GATE a box is another object,
# beyond OUTLYING its centre is one that jumped, as when a hidden end comes into sight.
GATE, OUTLYING = 25.0, 4.0
# So often an object must have been seen to be waited for all of `coast`; others a third of it. A fast
# one's velocity is told from then on.
SURE = 3
NO_TRACK = -1
# m/s, standard deviation of objects' motion past a vehicle that may drive.
UNKNOWN_SPEED = 10.0
LATE_S = 0.3


@dataclass(frozen=True)
class Motion:
    """How a kind of object moves and how well its place is measured.

    kind: boxes of different kinds are never one object; of kind 0 they may be anything. reach: metres
    from where a track is expected, beyond which a box is another object. speed, acceleration:
    standard deviations along each axis, m/s of who was never seen to move and m/s^2. noise: of a
    measured centre, metres.
    """

    kind: int
    reach: float
    speed: float
    acceleration: float
    noise: float


VEHICLE = Motion(1, 4.0, 14.0, 2.0, 0.3)
# Reaches are CenterPoint's, of half a second; the rest fits the geometric detector's boxes on
# simulated drives.
MOTIONS = {
    "car": VEHICLE,
    "van": VEHICLE,
    "truck": VEHICLE,
    "bus": replace(VEHICLE, reach=5.5),
    "pedestrian": Motion(2, 1.0, 2.0, 1.0, 0.2),
    "cyclist": Motion(2, 3.0, 5.0, 2.0, 0.2),
    "cone": Motion(3, 1.0, 0.3, 0.3, 0.1),
    "barrier": Motion(3, 1.0, 0.3, 0.3, 0.3),
}
ANYTHING = Motion(0, 2.0, 2.0, 2.0, 0.3)


@dataclass(frozen=True)
class TrackingConfig:
    """Tracks of objects.

    enabled: whether boxes get ids and velocities. coast: for how long an object that is not found is
    waited for. most_tracks: that are kept at once; boxes beyond have no id. most_uncertainty: a
    velocity whose standard deviation is larger is not told, unless that is below a quarter of
    it. standing: the sensors never move, as at
    a crossroads; velocities over ground are then told without odometry, too.
    """

    enabled: bool = True
    coast: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "s"})
    most_tracks: int = field(default=500, metadata={"min": 1, "max": 5000})
    most_uncertainty: float = field(default=2.0, metadata={"min": 0.05, "max": 50.0, "unit": "m/s"})
    standing: bool = False


@dataclass
class _Tracks:
    """T tracks. ids (T,) int64; states (T, 4) x y vx vy; covariance (T, 3) of place, of place with
    velocity and of velocity, the same along x and y as all noise is; motion (T, 5) rows of Motion;
    seen_ns (T,) when last found; hits (T,) in how many frames."""

    ids: NDArray[np.int64]
    states: Array
    covariance: Array
    motion: Array
    seen_ns: NDArray[np.int64]
    hits: NDArray[np.int64]

    @classmethod
    def none(cls) -> _Tracks:
        zeros = np.zeros(0, np.int64)
        return cls(zeros, np.zeros((0, 4)), np.zeros((0, 3)), np.zeros((0, 5)), zeros, zeros)

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> _Tracks:
        return _Tracks(*(getattr(self, f.name)[index] for f in fields(self)))

    def joined(self, other: _Tracks) -> _Tracks:
        names = [f.name for f in fields(self)]
        return _Tracks(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def predict(self, seconds: float) -> None:
        """Constant velocity, white noise of acceleration (Bar-Shalom et al. 2001, section 6.3.2)."""
        t, c = seconds, self.covariance
        q = self.motion[:, 3] ** 2
        self.states[:, :2] += t * self.states[:, 2:]
        c[:, 0] += 2 * t * c[:, 1] + t**2 * c[:, 2] + q * t**4 / 4
        c[:, 1] += t * c[:, 2] + q * t**3 / 2
        c[:, 2] += q * t**2

    def correct(self, rows: NDArray[np.int64], centres: Array, noise: Array) -> None:
        """Kalman's update of some tracks by centres (K, 2) of variances noise (K,)."""
        place, mixed, velocity = self.covariance[rows].T
        off = centres - self.states[rows, :2]
        # Less certain the further off (Huber 1981), so that no jump is taken for a velocity.
        noise = np.maximum(noise, (off**2).sum(axis=1) / OUTLYING - place)
        gain = np.column_stack([place, mixed]) / (place + noise)[:, None]
        self.states[rows, :2] += gain[:, :1] * off
        self.states[rows, 2:] += gain[:, 1:] * off
        rest = 1.0 - gain[:, 0]
        self.covariance[rows] = np.column_stack(
            [rest * place, rest * mixed, velocity - gain[:, 1] * mixed]
        )


class Tracker:
    """Gives boxes track_ids and, where the vehicle's motion is known, velocities over ground.

    Tracks live in odom. Without odometry they live in base_link: objects keep their ids, but nobody
    knows whether they move or the vehicle does, so no velocity is told (see TrackingConfig.standing).
    Where odometry is late by no more than LATE_S, the vehicle is taken to go on as before; then frames
    without it are passed over. Ids start at 1 and are never given again, not
    even after a reset. counts: resets, frames passed over and boxes without a track, by reason:
    time_back (a bag that loops), odometry_jump, odometry_found, bad_pose, no_pose, wrong_frame,
    bad_box, too_many.
    """

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self.counts: Counter[str] = Counter()
        self._tracks = _Tracks.none()
        self._next_id = 1
        self._stamp_ns: int | None = None
        self._pose: Array | None = None
        self._motion: list[tuple[int, Array]] = []

    def __len__(self) -> int:
        """Tracks that are kept now."""
        return len(self._tracks.ids)

    def update(self, boxes: Boxes3D, frame: SensorFrame) -> Boxes3D:
        """The boxes of a frame, in its base_frame, with track_ids and velocities.

        track_ids: -1 where a box has none. velocities: m/s over ground along base_frame's axes, NaN
        where not known well enough (new objects); None without odometry. The same frame again gets
        the same answer.
        """
        if boxes.frame_id != frame.base_frame:
            self.counts["wrong_frame"] += len(boxes)
            return boxes
        if not self._advance(frame):
            return boxes
        rows, centres, noise = self._measured(boxes)
        track_of = self._associate(rows, boxes, centres, noise, frame.stamp_ns)
        told = self._told(boxes, rows, track_of)
        self._drop(frame.stamp_ns)
        return told

    def reset(self) -> None:
        """Forget all tracks and the vehicle's motion."""
        self._tracks = _Tracks.none()
        self._pose, self._motion = None, []

    def _advance(self, frame: SensorFrame) -> bool:
        """Predict the tracks to a frame's stamp; False when nobody knows where they are at it."""
        stamp_ns, elapsed_s = frame.stamp_ns, 0.0
        if self._stamp_ns is not None:
            elapsed_s = (stamp_ns - self._stamp_ns) / NANOSECONDS
        if elapsed_s < 0:
            self._restart("time_back")
            elapsed_s = 0.0
        pose = self._place(frame)
        if pose is None and self._pose is not None:
            if elapsed_s <= self.config.coast:
                return False
            self.reset()
        elif pose is not None and self._pose is None and len(self):
            self._restart("odometry_found")
        elif (
            pose is not None
            and self._pose is not None
            and poses.jumped(self._pose, pose, elapsed_s)
        ):
            self._restart("odometry_jump")
        is_told = pose is frame.odom_from_base
        if pose is not None and is_told and (not self._motion or stamp_ns > self._motion[-1][0]):
            self._motion = [*self._motion[-1:], (stamp_ns, pose)]
        self._stamp_ns, self._pose = stamp_ns, pose
        # Over a longer gap than objects are waited for nothing can be told from where they were.
        age_s = (stamp_ns - self._tracks.seen_ns) / NANOSECONDS
        self._tracks = self._tracks.select(age_s <= self.config.coast)
        self._tracks.predict(elapsed_s)
        return True

    def _place(self, frame: SensorFrame) -> Array | None:
        """odom_from_base: as told, or for a moment where the motion of before leads to."""
        pose = frame.odom_from_base
        if pose is not None and poses.is_rigid(pose):
            return pose
        if pose is not None:
            self.counts["bad_pose"] += 1
        elif self._pose is not None:
            self.counts["no_pose"] += 1
        if len(self._motion) < 2:
            return None
        (first_ns, first), (last_ns, last) = self._motion
        step_ns, beyond_ns = last_ns - first_ns, frame.stamp_ns - last_ns
        if not 0 <= beyond_ns <= min(LATE_S * NANOSECONDS, 3 * step_ns):
            return None
        return poses.interpolate(first, last, 1.0 + beyond_ns / step_ns)

    def _restart(self, reason: str) -> None:
        self.counts[reason] += 1
        self.reset()

    def _measured(self, boxes: Boxes3D) -> tuple[NDArray[np.int64], Array, Array]:
        """Rows (K,) of the boxes that can be tracked, best score first; centres (K, 2), variances."""
        good = np.isfinite(boxes.boxes[:, :3]).all(axis=1) & np.isfinite(boxes.scores)
        if not good.all():
            self.counts["bad_box"] += int((~good).sum())
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(-boxes.scores[rows], kind="stable")]
        if len(rows) > self.config.most_tracks:
            self.counts["too_many"] += len(rows) - self.config.most_tracks
            rows = rows[: self.config.most_tracks]
        centres = boxes.boxes[rows, :3].astype(np.float64)
        if self._pose is not None:
            centres = np.asarray(poses.transform_points(self._pose, centres), np.float64)
        noise = _motions(boxes, rows)[:, 4] ** 2
        if boxes.covariances is not None:
            told = boxes.covariances[rows][:, [0, 1], [0, 1]].mean(axis=1)
            noise = np.maximum(noise, np.where(np.isfinite(told), told, 0.0))
        return rows, centres[:, :2], noise

    def _associate(
        self,
        rows: NDArray[np.int64],
        boxes: Boxes3D,
        centres: Array,
        noise: Array,
        now_ns: int,
    ) -> NDArray[np.int64]:
        """Index (K,) into the tracks of each box's own; those found are corrected, others are born."""
        tracks = self._tracks
        motion = _motions(boxes, rows)
        track_of = _assign(
            centres, noise, motion, tracks.states, tracks.covariance[:, 0], tracks.motion
        )
        found = np.flatnonzero(track_of >= 0)
        # A frame that comes again tells nothing new.
        found = found[tracks.seen_ns[track_of[found]] < now_ns]
        mine = track_of[found]
        tracks.correct(mine, centres[found], noise[found])
        tracks.seen_ns[mine] = now_ns
        tracks.hits[mine] += 1
        tracks.motion[mine] = motion[found]
        new = np.flatnonzero(track_of < 0)
        track_of[new] = len(tracks.ids) + np.arange(len(new))
        self._tracks = tracks.joined(self._born(centres[new], noise[new], motion[new], now_ns))
        return track_of

    def _born(self, centres: Array, noise: Array, motion: Array, now_ns: int) -> _Tracks:
        n = len(centres)
        ids = np.arange(self._next_id, self._next_id + n)
        self._next_id += n
        states = np.column_stack([centres, np.zeros((n, 2))])
        # Seen from a vehicle whose motion is not known, everything may move.
        relative = self._pose is None and not self.config.standing
        speed = np.maximum(motion[:, 2], UNKNOWN_SPEED if relative else 0.0)
        covariance = np.column_stack([noise, np.zeros(n), speed**2])
        seen_ns = np.full(n, now_ns, np.int64)
        return _Tracks(ids, states, covariance, motion, seen_ns, np.ones(n, np.int64))

    def _drop(self, now_ns: int) -> None:
        """Let go of what was not found for too long, and of the longest unseen beyond most_tracks."""
        c, tracks = self.config, self._tracks
        age_s = (now_ns - tracks.seen_ns) / NANOSECONDS
        patience = np.where(tracks.hits >= SURE, c.coast, c.coast / 3)
        kept = np.flatnonzero((age_s <= patience) | (age_s == 0))
        newest = np.lexsort((tracks.ids[kept], tracks.seen_ns[kept]))[-c.most_tracks :]
        self._tracks = tracks.select(np.sort(kept[newest]))

    def _told(
        self, boxes: Boxes3D, rows: NDArray[np.int64], track_of: NDArray[np.int64]
    ) -> Boxes3D:
        tracks, pose = self._tracks, self._pose
        ids = np.full(len(boxes), NO_TRACK, np.int64)
        ids[rows] = tracks.ids[track_of]
        if pose is None and not self.config.standing:
            return replace(boxes, track_ids=ids, velocities=None)
        deviation = np.sqrt(tracks.covariance[:, 2])
        speed = np.hypot(*tracks.states[:, 2:].T)
        known = (deviation <= self.config.most_uncertainty) & (tracks.hits > 1)
        known |= (deviation <= speed / 4) & (tracks.hits >= SURE)
        found = np.where(known[:, None], tracks.states[:, 2:], np.nan)[track_of]
        if pose is not None:
            heading = poses.yaw_of(pose)
            c, s = np.cos(heading), np.sin(heading)
            found = found @ np.array([[c, -s], [s, c]])
        velocities = np.full((len(boxes), 2), np.nan, np.float32)
        velocities[rows] = found
        return replace(boxes, track_ids=ids, velocities=velocities)


def _motions(boxes: Boxes3D, rows: NDArray[np.int64]) -> Array:
    """Motion (K, 5) of some boxes, by their classes."""
    known = [MOTIONS.get(name, ANYTHING) for name in boxes.class_names]
    table = np.array([[getattr(m, f.name) for f in fields(Motion)] for m in known], np.float64)
    return np.asarray(table[boxes.labels[rows]])


@numba.njit(cache=True, nogil=True)
def _assign(centres, noise, motion, states, variances, motions):  # type: ignore[no-untyped-def]
    """Index (K,) of each box's track, -1 without one: in turn, each the nearest that is free."""
    result = np.full(len(centres), -1, np.int64)
    taken = np.zeros(len(states), np.bool_)
    for i in range(len(centres)):
        nearest = GATE
        for k in range(len(states)):
            mine, theirs = motion[i, 0], motions[k, 0]
            if taken[k] or (mine != theirs and mine != 0 and theirs != 0):
                continue
            dx, dy = centres[i, 0] - states[k, 0], centres[i, 1] - states[k, 1]
            away = dx * dx + dy * dy
            reach = max(motion[i, 1], motions[k, 1])
            distance = away / (variances[k] + noise[i])
            if away <= reach * reach and distance <= nearest:
                nearest = distance
                result[i] = k
        if result[i] >= 0:
            taken[result[i]] = True
    return result
