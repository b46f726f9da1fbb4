"""LiDAR beams towards boxes: how many end in front of a box, within it, and behind it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.boxes import corners
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Sectors of the azimuth in which the returns are sorted.
SECTORS = 720
# A beam ends in front of or behind a box if its return is this far from the nearest or farthest corner,
# metres.
BOX_MARGIN = 0.5
# Larger clouds are thinned out to this number of points; each remaining beam then has a larger weight.
MAX_POINTS = 40_000
FRONT, INSIDE, BEHIND = range(3)


def count_beams(boxes: NDArray[np.floating], cloud: Cloud) -> NDArray[np.float32]:
    """Beams (N, 3) of all LiDARs towards boxes (N, 7) in base_link: columns FRONT, INSIDE and BEHIND.

    A beam belongs to a box if its azimuth and its slope, from the position of the LiDAR, are between
    those of the box's corners. Beams without a return are not counted.
    """
    counts = np.zeros((len(boxes), 3), np.float32)
    if not len(boxes) or not len(cloud.points):
        return counts
    step = -(-len(cloud.points) // MAX_POINTS)
    points, source = cloud.points[::step, :3].astype(np.float64), cloud.source[::step]
    for number, origin in enumerate(cloud.origins.astype(np.float64)):
        offset = points[source == number] - origin
        distance = np.hypot(offset[:, 0], offset[:, 1])
        azimuth = np.arctan2(offset[:, 1], offset[:, 0])
        sector = np.minimum(((azimuth / (2 * np.pi) + 0.5) * SECTORS).astype(np.int16), SECTORS - 1)
        order = np.argsort(sector, kind="stable")
        starts = np.searchsorted(sector[order], np.arange(SECTORS + 1))
        slope = offset[:, 2] / np.maximum(distance, 1e-3)
        limits = _limits(boxes, origin)
        _count(azimuth[order], distance[order], slope[order], starts, limits, step, counts)
    return counts


def _limits(boxes: NDArray[np.floating], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each box: azimuth of the centre, first and last azimuth relative to it, nearest and farthest
    distance of the corners, lowest and highest slope; (N, 7)."""
    corner = corners(boxes) - origin
    centre = np.asarray(boxes[:, :3], np.float64) - origin
    azimuth = np.arctan2(centre[:, 1], centre[:, 0])
    relative = np.arctan2(corner[..., 1], corner[..., 0]) - azimuth[:, None]
    relative = (relative + np.pi) % (2 * np.pi) - np.pi
    distance = np.hypot(corner[..., 0], corner[..., 1])
    slope = corner[..., 2] / np.maximum(np.hypot(centre[:, 0], centre[:, 1]), 1e-3)[:, None]
    return np.column_stack(
        [
            azimuth,
            *(relative.min(1), relative.max(1)),
            *(distance.min(1), distance.max(1)),
            *(slope.min(1), slope.max(1)),
        ]
    )


@njit(nogil=True)
def _count(azimuth, distance, slope, starts, limits, weight, counts):  # type: ignore[no-untyped-def]
    """Add the beams of one LiDAR to counts (N, 3). The arrays are sorted by sector."""
    for n in range(len(limits)):
        centre, first, last, near, far, low, high = limits[n]
        if last - first > np.pi:  # the LiDAR is within the box
            continue
        begin = int(np.floor(((centre + first) / (2 * np.pi) + 0.5) * SECTORS))
        end = int(np.floor(((centre + last) / (2 * np.pi) + 0.5) * SECTORS))
        for k in range(begin, end + 1):
            sector = k % SECTORS
            for i in range(starts[sector], starts[sector + 1]):
                relative = (azimuth[i] - centre + np.pi) % (2 * np.pi) - np.pi
                if relative < first or relative > last or slope[i] < low or slope[i] > high:
                    continue
                if distance[i] < near - BOX_MARGIN:
                    counts[n, FRONT] += weight
                elif distance[i] > far + BOX_MARGIN:
                    counts[n, BEHIND] += weight
                else:
                    counts[n, INSIDE] += weight
