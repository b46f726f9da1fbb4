"""Motion of the vehicle over time, from exactly one source: the rig's odometry topic or /tf."""

from __future__ import annotations

import numpy as np

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.transform_tree import (
    Pose,
    TransformError,
    TransformTree,
    normalise_name,
)
from multimodal_perception.notices import Notices
from multimodal_perception.rig import Rig

SUBJECT = "odometry"
# A pose that does not change at this speed (m/s) is not measured; it is reported after
# FROZEN_MESSAGES messages.
FROZEN_SPEED, FROZEN_MESSAGES = 0.5, 20


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

    def add(
        self, stamp_ns: int, parent: str, child: str, odom_from_child: Pose, speed: float = 0.0
    ) -> None:
        """Add the pose (4, 4) of a message. speed: of its twist, m/s.

        Raises TransformError: bad_transform, upside_down, frozen_pose (the twist contradicts the pose).
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

    def pose(self, stamp_ns: int) -> Pose | None:
        """Return odom_from_base (4, 4) at a stamp, or None if it is unknown."""
        rig = self._rig
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


def base_from_odom(pose: Pose | None) -> Pose:
    """Return the inverse of odom_from_base. Raises TransformError("no_odometry") for None."""
    if pose is None:
        raise TransformError("no_odometry", "the pose of the vehicle is unknown")
    return poses.inverse(pose)
