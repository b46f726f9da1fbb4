"""Removal of LiDAR points that are no measurement.

Drivers mark pulses without a return by NaN, by (0, 0, 0) or by a coordinate beyond any range. Kept as
points, they would be an obstacle at the sensor; deskewing at speed would move it before the vehicle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit


class Returns(NamedTuple):
    """Which points are measurements.

    keep: (N,) bool. not_finite, near, far: numbers of the other points: with a coordinate that is not
    finite, closer than the minimum range and beyond the maximum range.
    """

    keep: NDArray[np.bool_]
    not_finite: int
    near: int
    far: int

    @property
    def removed(self) -> int:
        """Number of points that are no measurement."""
        return self.not_finite + self.near + self.far


def find_returns(points: NDArray[np.float32], min_range: float, max_range: float) -> Returns:
    """Classify points (N, >= 3) float32, x y z in the sensor's frame.

    min_range, max_range: limits of the distance from the sensor, in the unit of the points.
    """
    keep = np.empty(len(points), np.bool_)
    counts = _classify(points, np.float64(min_range) ** 2, np.float64(max_range) ** 2, keep)
    return Returns(keep, *(int(n) for n in counts))


@njit()
def _classify(points, min_squared, max_squared, keep):  # type: ignore[no-untyped-def]
    not_finite, near, far = 0, 0, 0
    for i in range(len(points)):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        squared = x * x + y * y + z * z
        keep[i] = False
        if not np.isfinite(squared):
            not_finite += 1
        elif squared < min_squared:
            near += 1
        elif squared > max_squared:
            far += 1
        else:
            keep[i] = True
    return not_finite, near, far
