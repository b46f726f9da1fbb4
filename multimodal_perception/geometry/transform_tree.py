"""The tree of coordinate frames over time, as /tf and /tf_static tell it. No ROS here.

Plays the part of tf2::BufferCore: static transforms hold for ever, moving ones are kept for some
seconds and interpolated at the stamp asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS

Pose = NDArray[np.float64]
MOST_FRAMES = 2000
MOST_STAMPS = 4000
# A transform this much older or newer than the stamp asked for still serves.
TOLERANCE_NS = NANOSECONDS // 5


class TransformError(ValueError):
    """A transform that is not known or cannot be. `reason` is a short word to count by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class _Edge:
    """Poses parent_from_child of one frame, by rising stamp; one pose alone when static."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self.stamps: list[int] = []
        self.poses: list[Pose] = []


class TransformTree:
    """Frames and the transforms between them; each has one parent. Frame ids lose a leading slash."""

    def __init__(self, keep_s: float = 10.0, most_stamps: int = MOST_STAMPS) -> None:
        self._most_stamps = most_stamps
        self._keep_ns = round(keep_s * NANOSECONDS)
        self._edges: dict[str, _Edge] = {}

    def set(self, parent: str, child: str, stamp_ns: int, pose: Pose, static: bool = False) -> None:
        """Add parent_from_child (4, 4) at a stamp.

        Raises TransformError: bad_transform (not rigid, no name), cycle, too_many_frames.
        """
        parent, child = _clean(parent), _clean(child)
        if not parent or not child or not poses.is_rigid(pose):
            raise TransformError("bad_transform", f"{parent!r} to {child!r}")
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or edge.static != static:
            if child == parent or child in self._ancestors(parent):
                raise TransformError("cycle", f"{child} is above {parent} already")
            if len(self._edges) >= MOST_FRAMES:
                raise TransformError("too_many_frames", f"{MOST_FRAMES} frames are known")
            edge = self._edges[child] = _Edge(parent, static)
        if static:
            edge.stamps, edge.poses = [stamp_ns], [pose]
        else:
            self._insert(edge, stamp_ns, pose)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Pose:
        """target_from_source (4, 4) at a stamp, interpolated.

        Raises TransformError: unknown_frame, disconnected, or extrapolation, when a moving
        transform on the way is not known within 0.2 s of the stamp.
        """
        target, source = _clean(target), _clean(source)
        if target == source:
            return np.eye(4)
        for name in (target, source):
            if name not in self._edges and not any(e.parent == name for e in self._edges.values()):
                raise TransformError("unknown_frame", repr(name))
        above_target = [target, *self._ancestors(target)]
        above_source = [source, *self._ancestors(source)]
        common = next((f for f in above_source if f in above_target), None)
        if common is None:
            raise TransformError("disconnected", f"{target} and {source} are in two trees")
        common_from_target = self._climb(above_target[: above_target.index(common)], stamp_ns)
        common_from_source = self._climb(above_source[: above_source.index(common)], stamp_ns)
        return poses.inverse(common_from_target) @ common_from_source

    def clear_moving(self) -> None:
        """Forget all but the static transforms, as after a jump of the clock."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def frames(self) -> list[str]:
        """Names of all frames."""
        return sorted({*self._edges, *(e.parent for e in self._edges.values())})

    def _insert(self, edge: _Edge, stamp_ns: int, pose: Pose) -> None:
        at = bisect_left(edge.stamps, stamp_ns)
        if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
            edge.poses[at] = pose
            return
        edge.stamps.insert(at, stamp_ns)
        edge.poses.insert(at, pose)
        old = bisect_left(edge.stamps, edge.stamps[-1] - self._keep_ns)
        old = max(old, len(edge.stamps) - self._most_stamps)
        del edge.stamps[:old], edge.poses[:old]

    def _ancestors(self, frame: str) -> Iterator[str]:
        while frame in self._edges:
            frame = self._edges[frame].parent
            yield frame

    def _climb(self, chain: list[str], stamp_ns: int) -> Pose:
        """Top of the chain from its first frame."""
        pose = np.eye(4)
        for frame in chain:
            pose = _at(self._edges[frame], frame, stamp_ns) @ pose
        return pose


def _at(edge: _Edge, child: str, stamp_ns: int) -> Pose:
    if edge.static:
        return edge.poses[0]
    at = bisect_left(edge.stamps, stamp_ns)
    if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
        return edge.poses[at]
    if 0 < at < len(edge.stamps):
        first, second = edge.stamps[at - 1], edge.stamps[at]
        return poses.interpolate(
            edge.poses[at - 1], edge.poses[at], (stamp_ns - first) / (second - first)
        )
    nearest = min(at, len(edge.stamps) - 1)
    if abs(edge.stamps[nearest] - stamp_ns) > TOLERANCE_NS:
        away = (stamp_ns - edge.stamps[nearest]) / NANOSECONDS
        raise TransformError("extrapolation", f"{edge.parent} to {child} is {away:.3f} s away")
    return edge.poses[nearest]


def _clean(frame: str) -> str:
    return frame.strip().lstrip("/")
