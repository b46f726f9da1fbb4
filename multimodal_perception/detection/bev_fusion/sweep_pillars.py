"""Pillars of the current sweep, of past sweeps and of painted points.

The channels of the current sweep are those of the module `pillars`. Each past sweep, moved into
the current frame by odometry, adds the number and the mean position of its points in the cell. A moving
object is in different cells in successive sweeps, from which the network derives its velocity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import (
    PAINT_CHANNELS,
    SWEEP_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.pillars import (
    HEIGHT_BIN,
    HEIGHT_BINS,
    LOG_COUNTS,
    MIN_HEIGHT,
    PILLAR_CHANNELS,
    RANGE_CHANNEL,
    Pillars,
    build_pillars,
    cell_of,
)
from multimodal_perception.kernels import njit

# Heights above the ground between which points of past sweeps are used, metres.
MIN_PAST_HEIGHT, MAX_PAST_HEIGHT = 0.15, MIN_HEIGHT + HEIGHT_BIN * HEIGHT_BINS


@dataclass(frozen=True)
class PastSweep:
    """Non-ground points of an earlier frame.

    points: (N, 3) float32, x and y in the frame of the current grid, height above the ground; metres.
    age_s: time before the current frame, seconds.
    """

    points: NDArray[np.float32]
    age_s: float


def build_sweep_pillars(
    points: NDArray[np.float32],
    past: Sequence[PastSweep],
    painting: NDArray[np.float32] | None,
    config: BevFusionNetworkConfig,
) -> Pillars:
    """Pillars with config.pillar_channels features of all cells with current or past points.

    points: (N, 4) float32, x y z intensity; z above the ground. past: the most recent first; those
    beyond config.past_sweeps are ignored. painting: (N, PAINT_CHANNELS) float32, see paint_points; None
    for points without painting.

    Channels: those of Pillars; for each past sweep the log count and the mean offset of its points from
    the cell's centre (x, y, in cells); the ages of the sweeps, 0 for missing ones; the mean scores of
    the painted points and the painted fraction. Pillars with past points only have zeros in the
    channels of the current sweep except for the distance, and a centroid of the past points.
    """
    c = config
    cells = c.pillars.size**2
    unlimited = dataclasses.replace(c.pillars, max_pillars=max(cells, 100))
    current = build_pillars(points, unlimited)
    slot_of_cell = np.full(cells, -1, np.int32)
    slot_of_cell[current.cells] = np.arange(len(current.cells), dtype=np.int32)
    past = past[: c.past_sweeps]
    new_cells = _new_cells([s.points for s in past], slot_of_cell, len(current.cells), c)
    count = len(current.cells) + len(new_cells)
    features = np.zeros((count, c.pillar_channels), np.float32)
    features[: len(current.cells), :PILLAR_CHANNELS] = current.features
    all_cells = np.concatenate([current.cells, new_cells])
    centroids = np.zeros((count, 3), np.float32)
    centroids[: len(current.cells)] = current.centroids
    sums = np.zeros((count, 4), np.float32)
    half_extent = np.float32(c.pillars.half_extent)
    cells_per_m = np.float32(1 / c.pillars.cell)
    for k, sweep in enumerate(past):
        first = PILLAR_CHANNELS + k * SWEEP_CHANNELS
        part = features[:, first : first + SWEEP_CHANNELS]
        _add_past(
            sweep.points,
            slot_of_cell,
            all_cells,
            part,
            sums,
            half_extent,
            cells_per_m,
            c.pillars.size,
        )
        features[:, PILLAR_CHANNELS + c.past_sweeps * SWEEP_CHANNELS + k] = sweep.age_s
    only_past = slice(len(current.cells), None)
    centroids[only_past] = sums[only_past, :3] / np.maximum(sums[only_past, 3:], 1.0)
    distance = np.hypot(centroids[only_past, 0], centroids[only_past, 1])
    features[only_past, RANGE_CHANNEL] = distance / half_extent
    if c.painting and painting is not None and len(points):
        _add_painting(
            points, painting, slot_of_cell, features[:, -PAINT_CHANNELS:], half_extent, cells_per_m,
            c.pillars.size,
        )  # fmt: skip
    limit = c.pillars.max_pillars
    if count <= limit:
        return Pillars(features, all_cells, centroids)
    nearest = np.argpartition(np.hypot(centroids[:, 0], centroids[:, 1]), limit)[:limit]
    nearest.sort()
    return Pillars(features[nearest], all_cells[nearest], centroids[nearest], count - limit)


def _new_cells(
    sweeps: Sequence[NDArray[np.float32]],
    slot_of_cell: NDArray[np.int32],
    count: int,
    config: BevFusionNetworkConfig,
) -> NDArray[np.int32]:
    """Cells that only contain past points; numbers them in slot_of_cell from `count` on."""
    p = config.pillars
    new = [np.zeros(0, np.int32)]
    for points in sweeps:
        cells = np.empty(len(points), np.int32)
        added = _number_cells(
            points,
            slot_of_cell,
            cells,
            count,
            np.float32(p.half_extent),
            np.float32(1 / p.cell),
            p.size,
        )
        count += added
        new.append(cells[:added].copy())
    return np.concatenate(new)


@njit(nogil=True)
def _number_cells(points, slot_of_cell, cells, count, half_extent, cells_per_m, size):  # type: ignore[no-untyped-def]
    added = 0
    for i in range(len(points)):
        if not MIN_PAST_HEIGHT <= points[i, 2] < MAX_PAST_HEIGHT:
            continue
        k = cell_of(points[i, 0], points[i, 1], half_extent, cells_per_m, size)
        if k >= 0 and slot_of_cell[k] < 0:
            slot_of_cell[k] = count + added
            cells[added] = k
            added += 1
    return added


@njit(nogil=True)
def _add_past(points, slot_of_cell, cells, features, sums, half_extent, cells_per_m, size):  # type: ignore[no-untyped-def]
    """Fill the channels (M, 3) of one past sweep; add its points to sums (M, 4), x y z and count."""
    for i in range(len(points)):
        if not MIN_PAST_HEIGHT <= points[i, 2] < MAX_PAST_HEIGHT:
            continue
        k = cell_of(points[i, 0], points[i, 1], half_extent, cells_per_m, size)
        if k < 0:
            continue
        slot = slot_of_cell[k]
        f, s = features[slot], sums[slot]
        f[0] += np.float32(1.0)
        f[1] += (points[i, 0] + half_extent) * cells_per_m - (k % size) - np.float32(0.5)
        f[2] += (points[i, 1] + half_extent) * cells_per_m - (k // size) - np.float32(0.5)
        s[0] += points[i, 0]
        s[1] += points[i, 1]
        s[2] += points[i, 2]
        s[3] += np.float32(1.0)
    for m in range(len(features)):
        n = features[m, 0]
        if n > 0:
            features[m, 1] /= n
            features[m, 2] /= n
            features[m, 0] = LOG_COUNTS[min(int(n), len(LOG_COUNTS) - 1)] / np.float32(4.0)


@njit(nogil=True)
def _add_painting(points, painting, slot_of_cell, features, half_extent, cells_per_m, size):  # type: ignore[no-untyped-def]
    """Fill the painting channels (M, PAINT_CHANNELS) with means over the points of each pillar."""
    last = features.shape[1] - 1
    counts = np.zeros(len(features), np.float32)
    for i in range(len(points)):
        if not MIN_HEIGHT - 0.4 <= points[i, 2] < MAX_PAST_HEIGHT:
            continue
        k = cell_of(points[i, 0], points[i, 1], half_extent, cells_per_m, size)
        if k < 0 or slot_of_cell[k] < 0:
            continue
        slot = slot_of_cell[k]
        counts[slot] += np.float32(1.0)
        if painting[i, last] > 0:
            for c in range(last + 1):
                features[slot, c] += painting[i, c]
    for m in range(len(features)):
        painted = features[m, last]
        if painted > 0:
            for c in range(last):
                features[m, c] /= painted
            features[m, last] /= counts[m]
