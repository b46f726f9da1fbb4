"""Which LiDAR returns are fog, spray or snow: echoes of nothing that stands there.

In clear air hardly a return lies alone between its neighbours of the scan; in fog many do, at any
range. Where that is so, a return is believed only when enough of its neighbours around the line of
sight are as far away (the idea of Charron et al. 2018, dynamic radius outlier removal, on the scan's own
grid). Clear sweeps are not touched, so that thin things stay.
"""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.occupancy.cells import FULL, azimuth
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Share of lonely returns from which the air is not clear; clear streets with trees have up to 0.1.
HAZY = 0.15
# The scan's grid: 0.4 degrees both ways.
COLUMNS, ROWS, LOWEST, STEP = 900, 160, -0.7, 0.007
ROUND, UP = 2, 3
# A neighbour is as far away when it differs by at most NEAR metres and SHARE of the range.
NEAR, SHARE = 0.15, 0.02
# Shares of the neighbours, of LEAST at least, that make a return one of a thing, and one that may be.
CONFIRMED, DOUBTFUL, LEAST = 0.4, 0.15, 10


def without_haze(cloud: Cloud) -> Cloud:
    """The cloud without what over the ground is surely haze, the rest of it marked as doubtful.

    The cloud itself in clear air. Returns near the ground stay: wherever they come from, the air before
    them is free.
    """
    shares = confirmed(cloud)
    if shares is None:
        return cloud
    doubtful = (shares < CONFIRMED) & ~cloud.is_ground
    return replace(cloud, doubtful=doubtful).select((shares >= DOUBTFUL) | cloud.is_ground)


def confirmed(cloud: Cloud) -> NDArray[np.float32] | None:
    """Share (N,) of each return's neighbours that are as far away; None when the air is clear."""
    if len(cloud.points) < 100:
        return None
    away = np.empty(len(cloud.points), np.float32)
    if _lonely(cloud.points, cloud.source, cloud.origins, away) < HAZY:
        return None
    # Sweeps that are told ray by ray of a column have other rings as neighbours: look to the sides.
    asked, apart = 0, 0
    for index, origin in enumerate(cloud.origins):
        counts = _lonely_aside(cloud.points, cloud.source, index, origin, away)
        asked, apart = asked + counts[0], apart + counts[1]
    if apart < HAZY * asked:
        return None
    result = np.zeros(len(cloud.points), np.float32)
    for index, origin in enumerate(cloud.origins):
        _confirm(cloud.points, cloud.source, index, origin, away, result)
    return result


@numba.njit(cache=True, nogil=True)
def _lonely(points, source, origins, away):  # type: ignore[no-untyped-def]
    """Share of the returns that lie apart from both neighbours in the sweep; fills their ranges."""
    for i in range(len(points)):
        o = origins[source[i]]
        x, y, z = points[i, 0] - o[0], points[i, 1] - o[1], points[i, 2] - o[2]
        away[i] = np.sqrt(x * x + y * y + z * z)
    count = 0
    for i in range(1, len(points) - 1):
        limit = np.float32(0.3) + np.float32(0.05) * away[i]
        before, after = abs(away[i] - away[i - 1]), abs(away[i] - away[i + 1])
        count += before > limit and after > limit
    return count / max(len(points) - 2, 1)


@numba.njit(cache=True, nogil=True)
def _place(point, origin):  # type: ignore[no-untyped-def]
    """Row and column of the scan's grid; the row may lie off it."""
    x, y, z = point[0] - origin[0], point[1] - origin[1], point[2] - origin[2]
    column = int((azimuth(x, y) + FULL) * (COLUMNS / FULL)) % COLUMNS
    return int(np.floor((np.arctan2(z, np.sqrt(x * x + y * y)) - LOWEST) / STEP)), column


@numba.njit(cache=True, nogil=True)
def _image(points, source, index, origin, away):  # type: ignore[no-untyped-def]
    """Ranges of one LiDAR's returns on the scan's grid, 0 where there is none."""
    image = np.zeros((ROWS, COLUMNS), np.float32)
    for i in range(len(points)):
        if source[i] == index:
            row, column = _place(points[i], origin)
            if 0 <= row < ROWS:
                image[row, column] = away[i]
    return image


@numba.njit(cache=True, nogil=True)
def _lonely_aside(points, source, index, origin, away):  # type: ignore[no-untyped-def]
    """How many cells have neighbours on both sides, and how many of them lie apart from both."""
    image = _image(points, source, index, origin, away)
    asked, apart = 0, 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            mine = image[row, column]
            left, right = image[row, column - 1], image[row, (column + 1) % COLUMNS]
            if mine > 0 and left > 0 and right > 0:
                limit = np.float32(0.3) + np.float32(0.05) * mine
                asked += 1
                apart += abs(mine - left) > limit and abs(mine - right) > limit
    return asked, apart


@numba.njit(cache=True, nogil=True)
def _confirm(points, source, index, origin, away, result):  # type: ignore[no-untyped-def]
    image = _image(points, source, index, origin, away)
    for i in range(len(points)):
        if source[i] != index:
            continue
        row, column = _place(points[i], origin)
        limit = NEAR + SHARE * away[i]
        filled, alike = 0, 0
        for m in range(max(row - UP, 0), min(row + UP + 1, ROWS)):
            for n in range(column - ROUND, column + ROUND + 1):
                other = image[m, n % COLUMNS]
                if other > 0 and not (m == row and n == column):
                    filled += 1
                    alike += abs(other - away[i]) <= limit
        result[i] = alike / max(filled, LEAST)
