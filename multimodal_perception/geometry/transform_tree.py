"""Tree of coordinate frames over time, filled from /tf and /tf_static. No ROS imports.

It has the role of tf2::BufferCore: static transforms are kept forever; dynamic transforms are kept for
some seconds and interpolated at the requested stamp.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

Pose = NDArray[np.float64]
MAX_FRAMES = 2000
MAX_STAMPS = 4000
# A dynamic transform may be this much older or newer than the requested stamp.
TOLERANCE_NS = NANOSECONDS_PER_SECOND // 5


class TransformError(ValueError):
    """A transform is unknown or invalid. `reason` is a short keyword for counters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class _Edge:
    """Poses parent_from_child of one frame, sorted by stamp; a single pose if static."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self.stamps: list[int] = []
        self.poses: list[Pose] = []


class TransformTree:
    """Frames and the transforms between them. Each frame has one parent.

    A leading slash of a frame id is removed. keep_s: how long dynamic transforms are kept. max_stamps:
    maximum number of stored poses per frame.
    """

    def __init__(self, keep_s: float = 10.0, max_stamps: int = MAX_STAMPS) -> None:
        self._max_stamps = max_stamps
        self._keep_ns = round(keep_s * NANOSECONDS_PER_SECOND)
        self._edges: dict[str, _Edge] = {}

    def set(self, parent: str, child: str, stamp_ns: int, pose: Pose, static: bool = False) -> None:
        """Add parent_from_child (4, 4) at a stamp.

        Raises TransformError: bad_transform (not rigid, no name), cycle, too_many_frames.
        """
        parent, child = normalise_name(parent), normalise_name(child)
        if not parent or not child or not poses.is_rigid(pose):
            raise TransformError("bad_transform", f"{parent!r} to {child!r}")
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or edge.static != static:
            if child == parent or child in self._ancestors(parent):
                raise TransformError("cycle", f"{child} is already an ancestor of {parent}")
            if len(self._edges) >= MAX_FRAMES:
                raise TransformError("too_many_frames", f"the tree already has {MAX_FRAMES} frames")
            edge = self._edges[child] = _Edge(parent, static)
        if static:
            edge.stamps, edge.poses = [stamp_ns], [pose]
        else:
            self._insert(edge, stamp_ns, pose)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Pose:
        """Return target_from_source (4, 4) at a stamp, interpolated.

        Raises TransformError: unknown_frame, disconnected, or extrapolation, if a dynamic transform
        on the path has no pose within 0.2 s of the stamp.
        """
        target, source = normalise_name(target), normalise_name(source)
        if target == source:
            return np.eye(4)
        for name in (target, source):
            if name not in self._edges and not any(e.parent == name for e in self._edges.values()):
                raise TransformError("unknown_frame", repr(name))
        target_chain = [target, *self._ancestors(target)]
        source_chain = [source, *self._ancestors(source)]
        common = next((f for f in source_chain if f in target_chain), None)
        if common is None:
            raise TransformError("disconnected", f"{target} and {source} are not connected")
        common_from_target = self._climb(target_chain[: target_chain.index(common)], stamp_ns)
        common_from_source = self._climb(source_chain[: source_chain.index(common)], stamp_ns)
        return poses.inverse(common_from_target) @ common_from_source

    def parent(self, frame: str) -> str | None:
        """Return the parent of a frame, or None if it has none."""
        edge = self._edges.get(normalise_name(frame))
        return None if edge is None else edge.parent

    def newest_ns(self, frame: str) -> int | None:
        """Return the newest stamp of a frame's moving transform, or None if it has none."""
        edge = self._edges.get(normalise_name(frame))
        return None if edge is None or edge.static or not edge.stamps else edge.stamps[-1]

    def remove_after(self, stamp_ns: int) -> None:
        """Remove the poses of dynamic transforms with later stamps."""
        for child, edge in list(self._edges.items()):
            if edge.static or edge.stamps[-1] <= stamp_ns:
                continue
            at = bisect_right(edge.stamps, stamp_ns)
            del edge.stamps[at:], edge.poses[at:]
            if not edge.stamps:
                del self._edges[child]

    def empty_copy(self) -> TransformTree:
        """Return a tree without frames that keeps as many transforms as this one."""
        return TransformTree(self._keep_ns / NANOSECONDS_PER_SECOND, self._max_stamps)

    def clear_dynamic(self) -> None:
        """Remove all dynamic transforms, for example after a jump of the clock."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def frames(self) -> list[str]:
        """Return the names of all frames, sorted."""
        return sorted({*self._edges, *(e.parent for e in self._edges.values())})

    def _insert(self, edge: _Edge, stamp_ns: int, pose: Pose) -> None:
        at = bisect_left(edge.stamps, stamp_ns)
        if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
            edge.poses[at] = pose
            return
        edge.stamps.insert(at, stamp_ns)
        edge.poses.insert(at, pose)
        old = bisect_left(edge.stamps, edge.stamps[-1] - self._keep_ns)
        old = max(old, len(edge.stamps) - self._max_stamps)
        del edge.stamps[:old], edge.poses[:old]

    def _ancestors(self, frame: str) -> Iterator[str]:
        while frame in self._edges:
            frame = self._edges[frame].parent
            yield frame

    def _climb(self, chain: list[str], stamp_ns: int) -> Pose:
        """Return the pose of the first frame of the chain in the parent of the last one."""
        pose = np.eye(4)
        for frame in chain:
            pose = _pose_at(self._edges[frame], frame, stamp_ns) @ pose
        return pose


def _pose_at(edge: _Edge, child: str, stamp_ns: int) -> Pose:
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
        offset_s = (stamp_ns - edge.stamps[nearest]) / NANOSECONDS_PER_SECOND
        detail = f"{edge.parent} to {child}: the stamp is {offset_s:.3f} s from the nearest pose"
        raise TransformError("extrapolation", detail)
    return edge.poses[nearest]


def normalise_name(frame: str) -> str:
    """Return the name of a frame without spaces and without a leading slash."""
    return frame.strip().lstrip("/")
