"""LiDAR sweeps of earlier frames, aligned with the current frame by odometry."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.sweep_pillars import (
    MAX_PAST_HEIGHT,
    MIN_PAST_HEIGHT,
    PastSweep,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Sweeps older than this are dropped, because moving objects are too far from their present position.
MAX_AGE_S = 0.8
# Points per sweep; denser sweeps are thinned out evenly.
MAX_POINTS = 60000
# Points this far outside the grid may still enter it when the vehicle moves, metres.
MARGIN = 20.0


@dataclass(frozen=True)
class _Sweep:
    """points: (N, 4) float32, x y z in base_link at stamp_ns and height above the ground."""

    stamp_ns: int
    odom_from_base: NDArray[np.float64]
    odom_frame: str
    points: NDArray[np.float32]


class PastSweepBuffer:
    """The non-ground points of the last frames.

    counts: past sweeps that could not be used, by reason: no_odometry and bad_pose (of the current
    frame), too_old (a gap between the frames), time_back (stamps went back, e.g. a bag in a loop),
    odometry_jump (the vehicle cannot have moved that far), odometry_frame (the name of the odometry
    frame changed).
    """

    def __init__(self, sweeps: int, half_extent: float) -> None:
        """sweeps: number of sweeps to keep. half_extent: of the grid, metres."""
        self.counts: Counter[str] = Counter()
        self._half_extent = half_extent
        self._sweeps: deque[_Sweep] = deque(maxlen=sweeps)

    def __len__(self) -> int:
        """Number of sweeps."""
        return len(self._sweeps)

    def clear(self) -> None:
        """Drop all sweeps."""
        self._sweeps.clear()

    def past_sweeps(self, frame: SensorFrame) -> list[PastSweep]:
        """The sweeps before a frame in its base_link, the most recent first.

        Sweeps that do not belong to the same drive are dropped. Without odometry the result is empty,
        but the sweeps are kept for later frames.
        """
        self._drop_invalid(frame)
        pose = frame.odom_from_base
        usable = [s for s in self._sweeps if s.stamp_ns < frame.stamp_ns]
        if not usable:
            return []
        if pose is None or not poses.is_rigid(pose):
            self.counts["no_odometry" if pose is None else "bad_pose"] += len(usable)
            return []
        base_from_odom = poses.inverse(pose)
        past = []
        for sweep in reversed(usable):
            moved = poses.transform_points(
                base_from_odom @ sweep.odom_from_base, sweep.points[:, :3]
            )
            points = np.column_stack([moved[:, :2], sweep.points[:, 3]]).astype(np.float32)
            age_s = (frame.stamp_ns - sweep.stamp_ns) / NANOSECONDS_PER_SECOND
            past.append(PastSweep(points, age_s))
        return past

    def add(self, frame: SensorFrame, cloud: Cloud) -> None:
        """Keep the points of a frame. Frames without points or without odometry are not kept."""
        self._drop_invalid(frame)
        pose = frame.odom_from_base
        if not self._sweeps.maxlen or pose is None or not poses.is_rigid(pose):
            return
        reach = self._half_extent + MARGIN
        # MAX_PAST_HEIGHT: the pillars ignore points above it.
        keep = (
            ~cloud.is_ground & (cloud.height >= MIN_PAST_HEIGHT) & (cloud.height < MAX_PAST_HEIGHT)
        )
        keep &= (np.abs(cloud.points[:, 0]) < reach) & (np.abs(cloud.points[:, 1]) < reach)
        rows = np.flatnonzero(keep)
        if not len(rows):
            return
        rows = rows[:: -(-len(rows) // MAX_POINTS)]
        points = np.empty((len(rows), 4), np.float32)
        points[:, :3], points[:, 3] = cloud.points[rows, :3], cloud.height[rows]
        if self._sweeps and self._sweeps[-1].stamp_ns == frame.stamp_ns:
            self._sweeps.pop()  # the same frame again
        self._sweeps.append(_Sweep(frame.stamp_ns, pose.copy(), frame.odom_frame, points))

    def _drop_invalid(self, frame: SensorFrame) -> None:
        """Drop the sweeps that cannot be aligned with a frame, and count them."""
        if not self._sweeps:
            return
        last, pose = self._sweeps[-1], frame.odom_from_base
        elapsed_s = (frame.stamp_ns - last.stamp_ns) / NANOSECONDS_PER_SECOND
        reason = ""
        if elapsed_s < 0:
            reason = "time_back"
        elif frame.odom_frame != last.odom_frame:
            reason = "odometry_frame"
        elif _is_jump(last.odom_from_base, pose, elapsed_s):
            reason = "odometry_jump"
        if reason:
            self.counts[reason] += len(self._sweeps)
            self.clear()
        elif elapsed_s > MAX_AGE_S:
            self.counts["too_old"] += len(self._sweeps)
            self.clear()
        # Sweeps that become too old without a gap between frames are dropped, but not counted.
        limit_ns = frame.stamp_ns - round(MAX_AGE_S * NANOSECONDS_PER_SECOND)
        while self._sweeps and self._sweeps[0].stamp_ns < limit_ns:
            self._sweeps.popleft()


def _is_jump(
    before: NDArray[np.float64], pose: NDArray[np.float64] | None, elapsed_s: float
) -> bool:
    """Whether the vehicle cannot have moved from one pose to another; False for invalid poses."""
    if pose is None or not poses.is_rigid(pose):
        return False
    return poses.is_odometry_jump(before, pose, elapsed_s)
