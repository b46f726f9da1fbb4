"""Fills the gaps between the projected points of a LiDAR in a camera's view.

The rings of a LiDAR with few beams are many pixels apart. If each pixel took the value of the nearest
point, smooth surfaces such as the road would get a step between each pair of rings, always at the same
rows of the image. These steps would be matched with edges of the image and displace the estimate. The
upper edges of objects are between two rings; a LiDAR above the camera also measures surfaces that
objects hide from the camera, which would move these edges down.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit

# Rings that are at least this far apart, px, are sparse: the surfaces between them are interpolated.
SPARSE_RINGS = 5.0
# Points up to this number of columns beside a pixel are used for it.
REACH_X = 3
# Maximum number of rows above and below a point of a column that get its value.
REACH_Y = 8
# Two points one above the other are on one surface if their distances differ by less than this factor.
MAX_DISTANCE_RATIO = 1.25


def fill_nearest(
    pixels: NDArray[np.floating],
    distance: NDArray[np.floating],
    intensity: NDArray[np.floating],
    width: int,
    height: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """The same as fill_columns for dense points: each pixel has the values of the nearest point.

    The mask is true within REACH_Y pixels of a point.
    """
    depth, values = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    if not len(pixels):
        return depth, values, np.zeros(depth.shape, np.bool_)
    # Points are written from far to near, so that the nearest one remains.
    order = np.argsort(-distance, kind="stable")
    at = np.rint(pixels[order]).astype(np.int64)
    depth[at[:, 1], at[:, 0]] = distance[order]
    values[at[:, 1], at[:, 0]] = intensity[order]
    to_point, label = cv2.distanceTransformWithLabels(
        (depth == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    measured, filled = depth > 0, []
    for image in (depth, values):
        value_of_label = np.zeros(int(label.max()) + 1, np.float32)
        value_of_label[label[measured]] = image[measured]
        filled.append(value_of_label[label])
    return filled[0], filled[1], np.asarray(to_point <= REACH_Y, np.bool_)


def fill_columns(
    pixels: NDArray[np.floating],
    distance: NDArray[np.floating],
    intensity: NDArray[np.floating],
    width: int,
    height: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Distance (m) and intensity images (H, W) float32 of projected points, and a mask (H, W).

    pixels: (N, 2) x and y inside of the image. distance, intensity: (N,). In each column the values are
    interpolated linearly between points of one surface that are at most twice REACH_Y rows apart, and
    taken from the nearest point elsewhere. The mask is true within REACH_Y rows of a point.
    """
    depth, values = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    valid = np.zeros((height, width), np.bool_)
    if len(pixels):
        at = np.rint(pixels).astype(np.int64)
        nearest = np.full((height, width), REACH_X + 1, np.int64)
        _fill(
            np.ascontiguousarray(at),
            np.ascontiguousarray(distance, dtype=np.float32),
            np.ascontiguousarray(intensity, dtype=np.float32),
            nearest,
            depth,
            values,
            valid,
        )
    return depth, values, valid


def ring_distance(pixels: NDArray[np.floating]) -> float:
    """Median distance in rows of neighbouring points of one column, px; 0 for dense points.

    pixels: (N, 2) x and y of projected points.
    """
    if not len(pixels):
        return 0.0
    column = np.floor(pixels[:, 0] / REACH_X).astype(np.int64)
    order = np.lexsort((pixels[:, 1], column))
    distance = np.diff(pixels[order, 1])[np.diff(column[order]) == 0]
    # Points of one ring are less than a pixel apart.
    distance = distance[distance > 1.0]
    return float(np.median(distance)) if len(distance) else 0.0


@njit(nogil=True)
def _fill(at, distance, intensity, nearest, depth, values, valid):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for k in range(len(at)):
        x, y = at[k]
        for column in range(max(x - REACH_X, 0), min(x + REACH_X + 1, width)):
            offset = abs(column - x)
            # The nearest column counts; of points at the same pixel, the nearest one to the camera.
            better = offset < nearest[y, column]
            if better or (offset == nearest[y, column] and distance[k] < depth[y, column]):
                nearest[y, column] = offset
                depth[y, column], values[y, column] = distance[k], intensity[k]
    rows = np.empty(height, np.int64)
    for x in range(width):
        count = _visible_rows(nearest, depth, x, rows)
        for k in range(count):
            valid[rows[k], x] = True
        if count:
            first = rows[0]
            for row in range(max(first - REACH_Y, 0), first):
                depth[row, x], values[row, x], valid[row, x] = (
                    depth[first, x],
                    values[first, x],
                    True,
                )
        for k in range(count):
            below = rows[k + 1] if k + 1 < count else height
            _fill_gap(depth, values, valid, x, rows[k], below, k + 1 == count)
        for k in range(1, count - 1):
            _extend_upwards(depth, values, valid, x, rows[k - 1], rows[k], rows[k + 1])


@njit(nogil=True)
def _visible_rows(nearest, depth, x, rows):  # type: ignore[no-untyped-def]
    """Rows of the points of column x from the top, and their number.

    Points between two points of a nearer surface are left out: a LiDAR above the camera measures what is
    behind an object and hidden from the camera.
    """
    count = 0
    for y in range(len(nearest)):
        if nearest[y, x] > REACH_X:
            continue
        while count >= 2:
            # Is the last point behind both the one above it and this one?
            limit = MAX_DISTANCE_RATIO * max(depth[rows[count - 2], x], depth[y, x])
            if depth[rows[count - 1], x] < limit or y - rows[count - 2] > 2 * REACH_Y:
                break
            count -= 1
        rows[count] = y
        count += 1
    return count


@njit(nogil=True)
def _extend_upwards(depth, values, valid, x, above, row, below):  # type: ignore[no-untyped-def]
    """Extend an object above its highest ring, in `row`, by half of the distance between its rings.

    This is the mean distance of the upper edge of an object from its highest ring. above, below: rows of
    the next points.
    """
    same = depth[below, x] < MAX_DISTANCE_RATIO * depth[row, x]
    same = same and depth[row, x] < MAX_DISTANCE_RATIO * depth[below, x]
    if (
        not same
        or below - row > 2 * REACH_Y
        or depth[above, x] < MAX_DISTANCE_RATIO * depth[row, x]
    ):
        return
    for k in range(max(row - (below - row) // 2, 0), row):
        depth[k, x], values[k, x], valid[k, x] = depth[row, x], values[row, x], True


@njit(nogil=True)
def _fill_gap(depth, values, valid, x, above, below, at_end):  # type: ignore[no-untyped-def]
    """Fill the rows between the points in rows `above` and `below` of column x."""
    first, second = depth[above, x], depth[above, x]
    first_value, second_value = values[above, x], values[above, x]
    if not at_end:
        second, second_value = depth[below, x], values[below, x]
    smooth = max(first, second) < MAX_DISTANCE_RATIO * min(first, second)
    smooth = smooth and not at_end and below - above <= 2 * REACH_Y
    for row in range(above + 1, below):
        to_above = row - above
        to_below = below - row if not at_end else REACH_Y + 1
        if smooth:
            part = np.float32(to_above) / np.float32(below - above)
            # Distances on a plane are linear in their inverse.
            depth[row, x] = 1.0 / ((1.0 - part) / first + part / second)
            values[row, x] = first_value + part * (second_value - first_value)
            valid[row, x] = True
        elif to_above <= to_below and to_above <= REACH_Y:
            depth[row, x], values[row, x], valid[row, x] = first, first_value, True
        elif to_below <= REACH_Y:
            depth[row, x], values[row, x], valid[row, x] = second, second_value, True
