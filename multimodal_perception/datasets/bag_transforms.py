"""Transforms of a bag: static ones are valid for the whole bag, wherever they were recorded."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import (
    Pose,
    TransformError,
    TransformTree,
    normalise_name,
)
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.odometry import pose_from_geometry
from multimodal_perception.notices import Notices
from multimodal_perception.synchronization.transform_intake import (
    MOVING_TOPIC,
    STATIC_TOPIC,
    add_transforms,
)

TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
# Changes smaller than this (metres and rotation matrix entries) are rounding, not another transform.
ROUNDING = 1e-9

ACCEPTED = (
    Accepted(
        "/tf_static in a bag",
        ("recorded at any time", "in several messages", "transient local or volatile"),
        "Valid for the whole bag. A transform that changes applies from the time at which it was "
        "recorded, and the first one applies before that (notice).",
        "bad_transform, cycle: the transform is not used",
    ),
    Accepted(
        "A frame on both /tf and /tf_static of a bag",
        ("any",),
        "The transforms of /tf are used (notice).",
        "-",
    ),
)


def transform_topics(types: Mapping[str, str], notices: Notices) -> tuple[str, str]:
    """Names of the topics of static and of moving transforms of a bag.

    types: type by topic. A topic in a namespace, as /robot/tf_static, is used if the bag has no other.
    """
    names = []
    for standard in (STATIC_TOPIC, MOVING_TOPIC):
        others = [t for t, name in types.items() if name in TF_TYPES and t.endswith(standard)]
        if standard not in types and len(others) == 1:
            notices.add(standard, f"{others[0]} is used, because the bag has no {standard}")
            names.append(others[0])
            continue
        if standard not in types and others:
            topics = ", ".join(sorted(others))
            notices.add(standard, f"not in the bag; {topics} are not unambiguous and not used")
        names.append(standard)
    return names[0], names[1]


@dataclass
class _StaticTransform:
    """Transforms of one child frame, in the order of their record times."""

    record_ns: list[int] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    selected: int = -1

    def add(self, record_ns: int, stamp_ns: int, parent: str, pose: Pose) -> None:
        unchanged = bool(self.parents) and parent == self.parents[-1]
        if unchanged and np.allclose(pose, self.poses[-1], rtol=0.0, atol=ROUNDING):
            return
        self.record_ns.append(record_ns)
        self.stamps_ns.append(stamp_ns)
        self.parents.append(parent)
        self.poses.append(pose)


class BagTransforms:
    """Collects the transforms of a bag, and selects the static ones that apply at a time.

    drops: number of unusable transforms by (topic, reason).
    """

    def __init__(self, drops: Counter[tuple[str, str]], notices: Notices) -> None:
        self._drops, self._notices = drops, notices
        self._static: dict[str, _StaticTransform] = {}
        self._moving: list[Any] = []
        self._tree: TransformTree | None = None

    def add_static(self, record_ns: int, message: Any) -> None:
        """Add a message of /tf_static; messages must be added in the order of their record times."""
        for transform in message.transforms:
            parent = normalise_name(transform.header.frame_id)
            child = normalise_name(transform.child_frame_id)
            geometry = transform.transform
            try:
                pose = pose_from_geometry(geometry.translation, geometry.rotation)
                stamp_ns = stamp_ns_of(transform)
                # A tree of its own, because only transforms that are valid at the same time can clash.
                TransformTree().set(parent, child, stamp_ns, pose, True)
            except (MessageError, TransformError) as error:
                self._drops[STATIC_TOPIC, error.reason] += 1
                continue
            entry = self._static.setdefault(child, _StaticTransform())
            entry.add(record_ns, stamp_ns, parent, pose)

    def add_moving(self, message: Any) -> None:
        """Add a message of /tf. All messages must be added before the first call of `tree`."""
        self._moving.append(message)

    def tree(self, record_ns: int) -> TransformTree:
        """The tree with the static transforms that apply at a record time, and all transforms of /tf.

        It is always the same object.
        """
        if self._tree is None:
            self._tree = TransformTree(keep_s=1e6, max_stamps=1_000_000)
            moving = self._add_moving(self._tree)
            for child in sorted(moving & self._static.keys()):
                del self._static[child]
                self._notices.add(
                    STATIC_TOPIC, f"{child} is also on {MOVING_TOPIC}, whose transforms are used"
                )
            self._report_changes()
        for child, entry in self._static.items():
            selected = max(bisect_right(entry.record_ns, record_ns) - 1, 0)
            if selected == entry.selected:
                continue
            entry.selected = selected
            pose, stamp_ns = entry.poses[selected], entry.stamps_ns[selected]
            try:
                self._tree.set(entry.parents[selected], child, stamp_ns, pose, True)
            except TransformError as error:
                self._drops[STATIC_TOPIC, error.reason] += 1
        return self._tree

    def _add_moving(self, tree: TransformTree) -> set[str]:
        """Add all messages of /tf to a tree; return the names of the child frames."""
        children: set[str] = set()
        for message in self._moving:
            add_transforms(tree, message, False, self._drops, self._notices)
            children |= {normalise_name(t.child_frame_id) for t in message.transforms}
        self._moving.clear()
        return children

    def _report_changes(self) -> None:
        first_ns = min((e.record_ns[0] for e in self._static.values()), default=0)
        for child, entry in self._static.items():
            changes = [(ns - first_ns) / NANOSECONDS_PER_SECOND for ns in entry.record_ns[1:]]
            if changes:
                times = ", ".join(f"{s:.3f}" for s in changes[:3]) + (
                    ", ..." if changes[3:] else ""
                )
                self._notices.add(
                    STATIC_TOPIC,
                    f"the transform of {child} changes {len(changes)} times (after {times} s): each one "
                    "applies from the time at which it was recorded",
                )
