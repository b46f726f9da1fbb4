"""Filter for LiDAR returns from rain, fog, spray and snow.

In clear air hardly any return differs in range from all its neighbours in the scan; in fog many do, at
any range. If a sweep has many such isolated returns, every return is checked against its neighbours
around the line of sight: it is kept only if enough of them have a similar range. This is the idea of
dynamic radius outlier removal (DROR, Charron et al. 2018), on the scan's own angular grid. Sweeps in
clear air are not changed, so that thin objects are kept.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.angles import FULL_CIRCLE, azimuth
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Fraction of isolated returns from which the air is considered not clear. Clear streets with trees have
# up to 0.1.
NOISY_FRACTION = 0.15
# A sweep with fewer points is never filtered.
MIN_POINTS = 100
# Angular grid of the scan: columns (azimuth), rows (elevation), lowest elevation and row size in
# radians. The resolution is 0.4 degrees in both directions.
COLUMNS, ROWS, MIN_ELEVATION, ROW_STEP = 900, 160, -0.7, 0.007
# Neighbours are within this many columns and rows.
COLUMN_RADIUS, ROW_RADIUS = 2, 3
# A neighbour's range is similar if it differs by at most this, metres and fraction of the range.
RANGE_TOLERANCE, RELATIVE_RANGE_TOLERANCE = 0.15, 0.02
# A return is isolated if its range differs from both neighbours by more than this, likewise.
ISOLATED_DISTANCE, RELATIVE_ISOLATED_DISTANCE = np.float32(0.3), np.float32(0.05)
# Fractions of similar neighbours (of MIN_NEIGHBOURS at least) from which a return is reliable, and from
# which it is kept as possible noise.
RELIABLE_SUPPORT, MIN_SUPPORT, MIN_NEIGHBOURS = 0.4, 0.15, 10


def filter_weather_noise(cloud: Cloud) -> Cloud:
    """The cloud without returns that are noise, with the uncertain ones marked as possible_noise.

    In clear air the same object is returned. Ground returns are kept, whatever caused them: the air in
    front of them is free in any case.
    """
    support = neighbour_support(cloud)
    if support is None:
        return cloud
    possible_noise = (support < RELIABLE_SUPPORT) & ~cloud.is_ground
    marked = replace(cloud, possible_noise=possible_noise)
    return marked.select((support >= MIN_SUPPORT) | cloud.is_ground)


def neighbour_support(cloud: Cloud) -> NDArray[np.float32] | None:
    """Fraction (N,) of each return's neighbours with a similar range; None if the air is clear."""
    if len(cloud.points) < MIN_POINTS:
        return None
    ranges = np.empty(len(cloud.points), np.float32)
    isolated = _isolated_fraction(cloud.points, cloud.source, cloud.origins, ranges)
    if isolated < NOISY_FRACTION:
        return None
    # In sweeps ordered by column, consecutive points belong to different rings. Compare within rows too.
    checked, isolated = 0, 0
    for index, origin in enumerate(cloud.origins):
        counts = _count_isolated_in_rows(cloud.points, cloud.source, index, origin, ranges)
        checked, isolated = checked + counts[0], isolated + counts[1]
    if isolated < NOISY_FRACTION * checked:
        return None
    support = np.zeros(len(cloud.points), np.float32)
    for index, origin in enumerate(cloud.origins):
        _compute_support(cloud.points, cloud.source, index, origin, ranges, support)
    return support


@njit(nogil=True)
def _isolated_fraction(points, source, origins, ranges):  # type: ignore[no-untyped-def]
    """Fraction of returns whose range differs from both neighbours in the sweep; fills ranges (N,)."""
    for i in range(len(points)):
        o = origins[source[i]]
        x, y, z = points[i, 0] - o[0], points[i, 1] - o[1], points[i, 2] - o[2]
        ranges[i] = np.sqrt(x * x + y * y + z * z)
    count = 0
    for i in range(1, len(points) - 1):
        limit = ISOLATED_DISTANCE + RELATIVE_ISOLATED_DISTANCE * ranges[i]
        before, after = abs(ranges[i] - ranges[i - 1]), abs(ranges[i] - ranges[i + 1])
        count += before > limit and after > limit
    return count / max(len(points) - 2, 1)


@njit(nogil=True)
def _grid_position(point, origin):  # type: ignore[no-untyped-def]
    """Row and column of a point in the angular grid; the row may be outside."""
    x, y, z = point[0] - origin[0], point[1] - origin[1], point[2] - origin[2]
    column = int((azimuth(x, y) + FULL_CIRCLE) * (COLUMNS / FULL_CIRCLE)) % COLUMNS
    elevation = np.arctan2(z, np.sqrt(x * x + y * y))
    return int(np.floor((elevation - MIN_ELEVATION) / ROW_STEP)), column


@njit(nogil=True)
def _range_image(points, source, index, origin, ranges):  # type: ignore[no-untyped-def]
    """Ranges of one LiDAR's returns on the angular grid, 0 where there is none."""
    image = np.zeros((ROWS, COLUMNS), np.float32)
    for i in range(len(points)):
        if source[i] == index:
            row, column = _grid_position(points[i], origin)
            if 0 <= row < ROWS:
                image[row, column] = ranges[i]
    return image


@njit(nogil=True)
def _count_isolated_in_rows(points, source, index, origin, ranges):  # type: ignore[no-untyped-def]
    """Number of cells with left and right neighbours, and how many of them differ from both."""
    image = _range_image(points, source, index, origin, ranges)
    checked, isolated = 0, 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            value = image[row, column]
            left, right = image[row, column - 1], image[row, (column + 1) % COLUMNS]
            if value > 0 and left > 0 and right > 0:
                limit = ISOLATED_DISTANCE + RELATIVE_ISOLATED_DISTANCE * value
                checked += 1
                isolated += abs(value - left) > limit and abs(value - right) > limit
    return checked, isolated


@njit(nogil=True)
def _compute_support(points, source, index, origin, ranges, support):  # type: ignore[no-untyped-def]
    """Fill support (N,) for the returns of one LiDAR; see neighbour_support."""
    image = _range_image(points, source, index, origin, ranges)
    for i in range(len(points)):
        if source[i] != index:
            continue
        row, column = _grid_position(points[i], origin)
        limit = RANGE_TOLERANCE + RELATIVE_RANGE_TOLERANCE * ranges[i]
        neighbours, similar = 0, 0
        for m in range(max(row - ROW_RADIUS, 0), min(row + ROW_RADIUS + 1, ROWS)):
            for n in range(column - COLUMN_RADIUS, column + COLUMN_RADIUS + 1):
                other = image[m, n % COLUMNS]
                if other > 0 and not (m == row and n == column):
                    neighbours += 1
                    similar += abs(other - ranges[i]) <= limit
        support[i] = similar / max(neighbours, MIN_NEIGHBOURS)
