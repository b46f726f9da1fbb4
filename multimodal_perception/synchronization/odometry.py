"""Motion of the vehicle over time, from exactly one source: the rig's odometry topic or /tf."""

from __future__ import annotations

import numpy as np

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import (
    Pose,
    TransformError,
    TransformTree,
    normalise_name,
)
from multimodal_perception.notices import Notices
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.rig import Rig

SUBJECT = "odometry"
# A pose that does not change at this speed (m/s) is not measured; it is reported after
# FROZEN_MESSAGES messages.
FROZEN_SPEED, FROZEN_MESSAGES = 0.5, 20
# The odometry is lost after this many frames in a row without a pose, or if the newest pose is older.
LOST_FRAMES = 3
LOST_AGE_S = 1.0
# Two publishers alternate if the pose returns to the one before the last. Smaller steps (metres plus
# radians) are noise. The fraction of such steps is averaged with weight ALTERNATION_WEIGHT; poses are
# not used above ALTERNATION_ON, and used again below ALTERNATION_OFF.
MIN_STEP = 0.1
ALTERNATION_WEIGHT = 0.1
ALTERNATION_ON, ALTERNATION_OFF = 0.5, 0.2
ALTERNATION = "alternate between two trajectories: two nodes publish the odometry; it is not used"


class PoseAlternation:
    """Detects two publishers of the same pose, whose messages arrive by turns.

    Consecutive poses then alternate between two trajectories: the step over two messages is much smaller
    than each of both steps. Or stamps repeat and go back while the pose differs.
    """

    def __init__(self) -> None:
        self._last: list[tuple[int, Pose]] = []
        self._score = 0.0
        self.is_active = False

    def observe(self, stamp_ns: int, pose: Pose) -> bool:
        """Add a pose (4, 4); return whether it is evidence of a second publisher."""
        is_evidence = False
        if self._last:
            last_ns, last = self._last[-1]
            step = _distance(pose, last)
            is_evidence = stamp_ns <= last_ns and step > MIN_STEP
            if len(self._last) == 2:
                before = self._last[0][1]
                shorter = min(step, _distance(last, before))
                returns = _distance(pose, before) < 0.5 * shorter
                is_evidence = is_evidence or (shorter > MIN_STEP and returns)
        self._last = [*self._last[-1:], (stamp_ns, pose)]
        self._score += ALTERNATION_WEIGHT * (is_evidence - self._score)
        self.is_active = self._score > (ALTERNATION_OFF if self.is_active else ALTERNATION_ON)
        return is_evidence


def _distance(a: Pose, b: Pose) -> float:
    """Return the distance of two poses: metres plus, for small rotations, radians."""
    translation = float(np.linalg.norm(a[:3, 3] - b[:3, 3]))
    return translation + float(np.linalg.norm(a[:3, :3] - b[:3, :3])) / np.sqrt(2.0)


class Odometry:
    """Poses odom_from_base over time.

    If the rig has an odometry_topic, only its messages are used: the same transform on /tf would make
    the vehicle jump between both sources. Otherwise the pose is that of /tf.
    """

    def __init__(
        self, rig: Rig, transforms: TransformTree, notices: Notices, uses_topic: bool | None = None
    ) -> None:
        """uses_topic: whether the poses come from `add`; by default, whether the rig has a topic."""
        self._rig = rig
        self._transforms = transforms
        self._notices = notices
        self.uses_topic = rig.odometry_topic is not None if uses_topic is None else uses_topic
        self._poses = transforms.empty_copy()
        self._child = normalise_name(rig.base_frame)
        self._last_pose: Pose | None = None
        self._frozen = 0
        self._checked_tf = False
        self._alternation = PoseAlternation()
        self._newest_ns: int | None = None
        self._has_been_used = False
        self._missing_streak = 0

    def add(
        self, stamp_ns: int, parent: str, child: str, odom_from_child: Pose, speed: float = 0.0
    ) -> None:
        """Add the pose (4, 4) of a message. speed: of its twist, m/s.

        Raises TransformError: bad_transform, upside_down, frozen_pose (the twist contradicts the pose),
        alternating_poses (the pose is kept, but not used while two publishers alternate).
        """
        rig = self._rig
        parent, child = normalise_name(parent), normalise_name(child)
        child = child or normalise_name(rig.base_frame)
        if odom_from_child[2, 2] < 0:
            self._notices.add(SUBJECT, "the orientation is upside down (order of the quaternion?)")
            raise TransformError("upside_down", f"z axis points to {odom_from_child[:3, 2]}")
        if self._last_pose is not None and speed > FROZEN_SPEED:
            is_frozen = np.array_equal(odom_from_child, self._last_pose)
            self._frozen = self._frozen + 1 if is_frozen else 0
            if is_frozen:
                if self._frozen == FROZEN_MESSAGES:
                    self._notices.add(
                        SUBJECT,
                        "the pose does not change although the twist is not 0; it is ignored",
                    )
                raise TransformError("frozen_pose", f"the pose is constant at {speed:.1f} m/s")
        self._last_pose = odom_from_child
        if parent != normalise_name(rig.odom_frame):
            self._notices.add(
                SUBJECT, f"frame_id {parent!r} is taken as the rig's odom_frame {rig.odom_frame!r}"
            )
        if child != self._child:
            self._poses = self._transforms.empty_copy()
            self._child = child
        self._poses.set(rig.odom_frame, child, stamp_ns, odom_from_child)
        reason = self.observe(stamp_ns, child, odom_from_child)
        if reason is not None:
            raise TransformError(reason, "two nodes publish the odometry")

    def observe(self, stamp_ns: int, child: str, odom_from_child: Pose) -> str | None:
        """Record an accepted pose (4, 4) of the source in use; return alternating_poses or None."""
        newest_ns = self._newest_ns
        self._newest_ns = stamp_ns if newest_ns is None else max(newest_ns, stamp_ns)
        is_evidence = self._alternation.observe(stamp_ns, odom_from_child)
        if not (is_evidence and self._alternation.is_active):
            return None
        self._notices.add(
            SUBJECT,
            f"consecutive poses of {child} {ALTERNATION}",
        )
        return "alternating_poses"

    def record_frame(self, has_pose: bool) -> None:
        """Record whether the pose at the time of a frame was known."""
        self._missing_streak = 0 if has_pose else self._missing_streak + 1
        self._has_been_used = self._has_been_used or has_pose

    def status(self, now_ns: int | None) -> StageStatus:
        """Return the state for diagnostics; WARN if the odometry is lost or not usable.

        now_ns: time of the sensors' clock, None before the first sensor message.
        """
        source = f"topic {self._rig.odometry_topic}" if self.uses_topic else "/tf"
        values: dict[str, object] = {"source": source}
        newest_ns = self._newest_ns
        if newest_ns is None:
            level = Level.WARN if self.uses_topic or self._has_been_used else Level.OK
            return StageStatus(SUBJECT, level, f"no odometry on {source}", values)
        age_s = None if now_ns is None else (now_ns - newest_ns) / NANOSECONDS_PER_SECOND
        if age_s is not None:
            values["newest_pose_age_s"] = age_s
        if self._alternation.is_active:
            text = f"consecutive poses {ALTERNATION}"
            return StageStatus(SUBJECT, Level.WARN, text, values)
        is_old = age_s is not None and age_s > LOST_AGE_S
        if not is_old and self._missing_streak < LOST_FRAMES:
            return StageStatus(SUBJECT, Level.OK, "ok", values)
        name = "odometry lost" if self._has_been_used else "odometry is not usable"
        detail = f"no pose at the time of the last {self._missing_streak} frames"
        if is_old:
            detail = f"the newest pose is {age_s:.1f} s old"
        return StageStatus(SUBJECT, Level.WARN, f"{name}: {detail}", values)

    def remove_after(self, stamp_ns: int) -> None:
        """Remove poses with later stamps: they were accepted before the time was known."""
        self._poses.remove_after(stamp_ns)
        if self._newest_ns is not None and self._newest_ns > stamp_ns:
            self._newest_ns = None

    def pose(self, stamp_ns: int) -> Pose | None:
        """Return odom_from_base (4, 4) at a stamp, or None if it is unknown."""
        rig = self._rig
        if self._alternation.is_active:
            return None
        try:
            if not self.uses_topic:
                return self._transforms.lookup(rig.odom_frame, rig.base_frame, stamp_ns)
            odom_from_child = self._poses.lookup(rig.odom_frame, self._child, stamp_ns)
        except TransformError:
            return None
        if self._child == normalise_name(rig.base_frame):
            return odom_from_child
        try:
            child_from_base = self._transforms.lookup(self._child, rig.base_frame, stamp_ns)
        except TransformError:
            self._notices.add(
                SUBJECT,
                f"child_frame_id {self._child!r} is not base_frame {rig.base_frame!r}, and /tf does not "
                "connect them: the odometry is not used",
            )
            return None
        self._notices.add(
            SUBJECT,
            f"child_frame_id {self._child!r} is converted to base_frame {rig.base_frame!r} with /tf",
        )
        return odom_from_child @ child_from_base

    def check_sources(self, stamp_ns: int) -> None:
        """Give a notice once if /tf also has the pose that comes from the odometry topic."""
        if not self.uses_topic or self._checked_tf:
            return
        rig = self._rig
        try:
            self._transforms.lookup(rig.odom_frame, rig.base_frame, stamp_ns)
        except TransformError:
            return
        self._checked_tf = True
        self._notices.add(
            SUBJECT,
            f"/tf also has {rig.odom_frame} to {rig.base_frame}; only odometry_topic "
            f"{rig.odometry_topic} is used (remove it from the rig to use /tf)",
        )

    def clear(self) -> None:
        """Remove all poses, for example after a jump of the clock."""
        self._poses.clear_dynamic()
        self._last_pose, self._frozen = None, 0
        self._newest_ns = None
        self._alternation = PoseAlternation()


def base_from_odom(pose: Pose | None) -> Pose:
    """Return the inverse of odom_from_base. Raises TransformError("no_odometry") for None."""
    if pose is None:
        raise TransformError("no_odometry", "the pose of the vehicle is unknown")
    return poses.inverse(pose)
