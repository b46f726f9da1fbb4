"""Attacks that only need the results of the pipeline, with a fixed number of its runs.

Square Attack (Andriushchenko et al. 2020): a change at the bound in vertical stripes, then random
squares that are kept if they make the result worse. The squares become smaller as in the paper. On LiDAR
sweeps the squares are windows of azimuth and elevation, and their points move along the ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness.attacked_pixels import (
    image_pixels,
    pixel_bound,
    with_pixels,
)
from multimodal_perception.evaluation.robustness.corruption import with_reading
from multimodal_perception.frame import SensorFrame

# Fraction of the image that the first squares cover, halved at these fractions of the queries.
FIRST_FRACTION = 0.3
HALVED_AT = (0.02, 0.1, 0.2, 0.4, 0.6, 0.8)
# Grid of azimuth and elevation on which the ranges of a sweep are changed.
LIDAR_COLUMNS, LIDAR_ROWS = 180, 32
# Width of the first stripes: columns of the image are divided into this number, LiDAR columns into each
# one.
STRIPES = 60

# The result that the attack lowers, of a changed frame.
Score = Callable[[SensorFrame], float]


def attack_image(
    frame: SensorFrame, sensor: str, levels: float, queries: int, score: Score, seed: int
) -> SensorFrame:
    """The frame with an image that differs by at most `levels`, see attacked_pixels.image_pixels."""
    pixels, maximum, level = image_pixels(frame, sensor)
    bound = pixel_bound(levels, level)
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1

    def apply(signs: NDArray[np.float32]) -> SensorFrame:
        shape = signs if pixels.ndim == 3 else signs[..., 0]
        return with_pixels(frame, sensor, np.clip(pixels + bound * shape, 0.0, maximum))

    return _search((height, width, channels), STRIPES, apply, queries, score, seed)


def attack_points(
    frame: SensorFrame, sensor: str, metres: float, queries: int, score: Score, seed: int
) -> SensorFrame:
    """The frame with points that are displaced along their rays by at most `metres`."""
    sweep = frame.lidars[sensor]
    xyz = sweep.points[:, :3].astype(np.float64)
    ranges = np.linalg.norm(xyz, axis=1)
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0])
    elevation = np.arcsin(np.clip(xyz[:, 2] / np.maximum(ranges, 1e-6), -1.0, 1.0))
    low, high = (elevation.min(), elevation.max()) if len(ranges) else (0.0, 0.0)
    columns = np.clip((azimuth / (2 * np.pi) + 0.5) * LIDAR_COLUMNS, 0, LIDAR_COLUMNS - 1).astype(
        int
    )
    rows = (elevation - low) / max(high - low, 1e-6) * LIDAR_ROWS
    rows = np.clip(rows, 0, LIDAR_ROWS - 1).astype(int)

    def apply(signs: NDArray[np.float32]) -> SensorFrame:
        moved = np.maximum(ranges + metres * signs[rows, columns, 0], 0.05)
        points = sweep.points.copy()
        points[:, :3] = xyz * (moved / np.maximum(ranges, 1e-6))[:, None]
        return with_reading(frame, replace(sweep, points=points))

    shape = (LIDAR_ROWS, LIDAR_COLUMNS, 1)
    return _search(shape, LIDAR_COLUMNS, apply, queries, score, seed)


def square_side(query: int, queries: int, area: int) -> int:
    """Side of the square of a query in cells, for an image of `area` cells."""
    halvings = sum(query >= part * queries for part in HALVED_AT)
    return max(round((FIRST_FRACTION / 2**halvings * area) ** 0.5), 1)


def _search(
    shape: tuple[int, int, int],
    stripes: int,
    apply: Callable[[NDArray[np.float32]], SensorFrame],
    queries: int,
    score: Score,
    seed: int,
) -> SensorFrame:
    """The frame of the signs (H, W, channels), -1 or 1, with the lowest score of all queries."""
    rng: Any = np.random.default_rng(seed)
    height, width, channels = shape
    stripes = min(stripes, width)
    values = rng.choice(np.array([-1.0, 1.0], np.float32), (1, stripes, channels))
    signs = np.repeat(values[:, np.arange(width) * stripes // width], height, axis=0)
    best = apply(signs)
    lowest = score(best)
    for query in range(1, queries):
        side = square_side(query, queries, height * width)
        rows, columns = min(side, height), min(side, width)
        top = int(rng.integers(height - rows + 1))
        left = int(rng.integers(width - columns + 1))
        changed = signs.copy()
        changed[top : top + rows, left : left + columns] = rng.choice([-1.0, 1.0], channels)
        candidate = apply(changed)
        value = score(candidate)
        if value < lowest:
            signs, best, lowest = changed, candidate, value
    return best
