"""Trails: the latest positions of each tracked object."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND


class Trail(NamedTuple):
    """Positions (N, 3) of one track in base_frame at the latest stamp, oldest first, metres."""

    track_id: int
    class_name: str
    positions: NDArray[np.float64]


class TrackTrails:
    """Collects the centres of tracked boxes over the last `length_s` seconds.

    With odometry, positions are kept in the odometry frame, so that the trail of a parked car is a
    point. Without odometry they are relative to the vehicle. All trails start again if the odometry
    appears or is lost, and if the stamps go back, as when a recording is repeated.
    """

    def __init__(self, length_s: float = 5.0) -> None:
        self._length_ns = round(length_s * NANOSECONDS_PER_SECOND)
        self._positions: dict[int, deque[tuple[int, NDArray[np.float64]]]] = {}
        self._has_odometry = False
        self._stamp_ns = 0

    def update(self, boxes: Boxes3D, odom_from_base: NDArray[np.float64] | None) -> list[Trail]:
        """Add the boxes of one frame, in base_frame; return the trails of its tracks.

        odom_from_base: pose (4, 4) at the stamp of the boxes, or None.
        """
        has_odometry = odom_from_base is not None
        if has_odometry != self._has_odometry or boxes.stamp_ns < self._stamp_ns:
            self._positions.clear()
        self._has_odometry, self._stamp_ns = has_odometry, boxes.stamp_ns
        fixed_from_base = np.eye(4) if odom_from_base is None else odom_from_base
        base_from_fixed = poses.inverse(fixed_from_base)
        if boxes.track_ids is not None:
            centres = poses.transform_points(fixed_from_base, boxes.boxes[:, :3])
            for i, track_id in enumerate(boxes.track_ids.tolist()):
                if track_id >= 0:
                    positions = self._positions.setdefault(track_id, deque())
                    positions.append((boxes.stamp_ns, np.asarray(centres[i], np.float64)))
        self._remove_old(boxes.stamp_ns)
        trails = []
        for i, track_id in enumerate(() if boxes.track_ids is None else boxes.track_ids.tolist()):
            if track_id in self._positions:
                fixed = np.array([p for _, p in self._positions[track_id]])
                name = boxes.class_names[boxes.labels[i]]
                positions_in_base = poses.transform_points(base_from_fixed, fixed)
                trails.append(Trail(track_id, name, np.asarray(positions_in_base, np.float64)))
        return trails

    def _remove_old(self, stamp_ns: int) -> None:
        for track_id, positions in list(self._positions.items()):
            while positions and positions[0][0] < stamp_ns - self._length_ns:
                positions.popleft()
            if not positions:
                del self._positions[track_id]
