"""Transforms of /tf and /tf_static, with stamps checked against the clock of the sensors. No ROS."""

from __future__ import annotations

from collections import Counter
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import (
    TransformError,
    TransformTree,
    normalise_name,
)
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.odometry import pose_from_geometry
from multimodal_perception.notices import Notices
from multimodal_perception.rig import Rig
from multimodal_perception.synchronization.odometry import Odometry
from multimodal_perception.synchronization.sensor_clocks import MAX_SKEW_NS, MajorityClock

STATIC_TOPIC, MOVING_TOPIC = "/tf_static", "/tf"
# Odometry may be ahead of the clock of the sensors by this much, other transforms by more: publishers of
# map to odom add a tolerance of about 1 s. Poses older than MAX_AGE_NS are rejected.
MAX_ODOMETRY_LEAD_NS = 3 * NANOSECONDS_PER_SECOND // 10
MAX_LEAD_NS = 2 * NANOSECONDS_PER_SECOND
MAX_AGE_NS = 10 * NANOSECONDS_PER_SECOND
# A frame keeps its parent while that has published within this time.
PARENT_TIMEOUT_NS = NANOSECONDS_PER_SECOND


class PoseStampCheck:
    """Checks the stamps of poses against the clock of the majority of the sensors.

    A single pose with a stamp ahead of the sensors' clock would remove all others, because poses are
    kept for some seconds before the newest one. Before the first sensor message every stamp is accepted;
    poses with stamps ahead of the sensors' clock that were accepted then are removed later.
    """

    def __init__(self, clock: MajorityClock, transforms: TransformTree, odometry: Odometry) -> None:
        self._clock = clock
        self._transforms = transforms
        self._odometry = odometry
        self._checked_offset_ns: int | None = None

    def sensor_time_ns(self, now_ns: int) -> int | None:
        """Return the time of the sensors' clock, or None before the first sensor message."""
        offset_ns = self._clock.offset_ns
        return None if offset_ns is None else now_ns + offset_ns

    def reason(self, stamp_ns: int, now_ns: int, max_lead_ns: int) -> str | None:
        """Return why a pose with this stamp is rejected (stamp_ahead or stamp_behind), or None."""
        offset_ns = self._clock.offset_ns
        if offset_ns is None:
            return None
        self.update(now_ns)
        lead_ns = stamp_ns - now_ns - offset_ns - self._clock.resolution_ns
        if lead_ns > max_lead_ns:
            return "stamp_ahead"
        return "stamp_behind" if lead_ns < -MAX_AGE_NS else None

    def update(self, now_ns: int) -> None:
        """Remove poses ahead of the sensors' clock if that has become known or has changed."""
        offset_ns, checked_ns = self._clock.offset_ns, self._checked_offset_ns
        if offset_ns is None or (
            checked_ns is not None and abs(offset_ns - checked_ns) <= MAX_SKEW_NS
        ):
            return
        self._checked_offset_ns = offset_ns
        self._transforms.remove_after(now_ns + offset_ns + MAX_LEAD_NS)
        self._odometry.remove_after(now_ns + offset_ns + MAX_ODOMETRY_LEAD_NS)


class TransformIntake:
    """Adds messages of /tf and /tf_static to a tree, and checks the poses of the odometry."""

    def __init__(
        self,
        rig: Rig,
        tree: TransformTree,
        odometry: Odometry,
        stamps: PoseStampCheck,
        drops: Counter[tuple[str, str]],
        notices: Notices,
    ) -> None:
        self._odom_frame = normalise_name(rig.odom_frame)
        self._tree = tree
        self._odometry = odometry
        self._stamps = stamps
        self._drops = drops
        self._notices = notices

    def add(self, msg: Any, static: bool, now_ns: int) -> None:
        """Add a TFMessage; refused transforms are counted in `drops`.

        A moving frame keeps its parent while that publishes: another publisher with another parent is
        counted as parent_changed, with a notice. odom_frame replaces any other parent.
        """
        for transform in msg.transforms:
            if static:
                add_transform(self._tree, transform, True, self._drops, self._notices)
                continue
            is_odometry = normalise_name(transform.header.frame_id) == self._odom_frame
            reason = self._refusal(transform, is_odometry, now_ns)
            if reason is not None:
                self._drops[MOVING_TOPIC, reason] += 1
                continue
            is_added = add_transform(self._tree, transform, False, self._drops, self._notices)
            if is_added and is_odometry and not self._odometry.uses_topic:
                pose = pose_from_geometry(
                    transform.transform.translation, transform.transform.rotation
                )
                child = normalise_name(transform.child_frame_id)
                reason = self._odometry.observe(stamp_ns_of(transform), child, pose)
                if reason is not None:
                    self._drops[MOVING_TOPIC, reason] += 1

    def _refusal(self, transform: Any, is_odometry: bool, now_ns: int) -> str | None:
        try:
            stamp_ns = stamp_ns_of(transform)
        except MessageError as error:
            return error.reason
        lead_ns = MAX_ODOMETRY_LEAD_NS if is_odometry else MAX_LEAD_NS
        reason = self._stamps.reason(stamp_ns, now_ns, lead_ns)
        if reason is not None or is_odometry:
            return reason
        child, parent = transform.child_frame_id, normalise_name(transform.header.frame_id)
        known, newest_ns = self._tree.parent(child), self._tree.newest_ns(child)
        if known in (None, parent) or newest_ns is None:
            return None
        if abs(stamp_ns - newest_ns) > PARENT_TIMEOUT_NS:
            return None
        _add_parent_notice(self._notices, MOVING_TOPIC, child, str(known), parent)
        return "parent_changed"


def add_transforms(
    tree: TransformTree,
    msg: Any,
    static: bool,
    drops: Counter[tuple[str, str]],
    notices: Notices | None = None,
) -> None:
    """Add a TFMessage to a tree without a check of its stamps; see add_transform."""
    for transform in msg.transforms:
        add_transform(tree, transform, static, drops, notices)


def add_transform(
    tree: TransformTree,
    transform: Any,
    static: bool,
    drops: Counter[tuple[str, str]],
    notices: Notices | None = None,
) -> bool:
    """Add one transform to a tree and return True, or count the reason in `drops`.

    The stamp of a static transform is not used. A frame whose parent changes has two publishers: this is
    counted as parent_changed, with a notice.
    """
    topic = STATIC_TOPIC if static else MOVING_TOPIC
    parent, child = transform.header.frame_id, transform.child_frame_id
    try:
        known = tree.parent(child)
        pose = pose_from_geometry(transform.transform.translation, transform.transform.rotation)
        tree.set(parent, child, 0 if static else stamp_ns_of(transform), pose, static)
    except (MessageError, TransformError) as error:
        drops[topic, error.reason] += 1
        return False
    if known is not None and known != tree.parent(child):
        drops[topic, "parent_changed"] += 1
        if notices is not None:
            _add_parent_notice(notices, topic, child, known, str(tree.parent(child)))
    return True


def _add_parent_notice(notices: Notices, topic: str, child: str, parent: str, other: str) -> None:
    parents = " and ".join(sorted((parent, other)))
    notices.add(topic, f"{child} has two parents, {parents}: two publishers")
