"""Features of the LiDAR points in each proposal (RoI).

A 6 x 6 x 6 grid of points per proposal (LoGoNet, Li et al. 2023, section 3.3), extents of the returns in
the box, and a profile: histograms of the returns along, across and above the box in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit

# Grid points along each axis of a proposal.
GRID = 6
# The grid is larger than the box, because proposals are inexact: scale factor and margin in metres.
GRID_SCALE, GRID_MARGIN = 1.1, 0.15
# Cells of PointIndex, metres.
INDEX_CELL = 0.8
# Minimum and maximum along, minimum and maximum across, maximum height, log count of the returns.
EXTENT_FEATURES = 6
# Histograms of the profile: cell size in metres and number of cells. LATERAL is across the box; the
# VERTICAL histogram starts at VERTICAL_MIN above the ground plane z = 0.
LONGITUDINAL_CELL, LONGITUDINAL_CELLS = 0.5, 32
LATERAL_CELL, LATERAL_CELLS = 0.08, 40
VERTICAL_CELL, VERTICAL_CELLS, VERTICAL_MIN = 0.1, 28, 1.2
# The face is the box's end towards the sensor. FACE_OUTLIERS: fraction of the returns that may lie in
# front of it (mirrors, ladders). Returns from FACE_AHEAD in front of it to FACE_DEPTH behind it belong
# to it. It is searched from FACE_BEYOND outside the proposal's end. Metres.
FACE_OUTLIERS, FACE_AHEAD, FACE_DEPTH, FACE_BEYOND = 0.1, 0.3, 0.5, 0.75
# Bin size in metres of the search for the face, and the number of its features.
FACE_BIN, FACE_FEATURES = 0.05, 5
PROFILE_FEATURES = 2 + LONGITUDINAL_CELLS + LATERAL_CELLS + VERTICAL_CELLS + FACE_FEATURES
# Objects in proposals longer than CAR_LENGTH (trucks, buses) may continue for LENGTH_MARGIN beyond
# either end of the proposal, so the profile is evaluated there too. Metres.
LENGTH_MARGIN, CAR_LENGTH = 3.0, 5.0
# Returns below this height above the bottom of the proposal may be ground or kerb and are not part of
# the extents and the profile. Metres.
MIN_RETURN_HEIGHT = 0.4
# Sides of a proposal are at least this long, metres.
MIN_SIZE = 0.05


@dataclass(frozen=True)
class PointIndex:
    """Points sorted into square cells of the ground plane for fast spatial queries.

    points: (N, 4) float32, sorted by cell. starts: (size * size + 1,) int32, first point of each cell.
    half_extent: half side of the square, metres. size: number of cells per side.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int32]
    half_extent: float
    size: int

    @classmethod
    def build(cls, points: NDArray[np.float32], half_extent: float) -> PointIndex:
        """Index points (N, 4); those outside the square are dropped."""
        size = int(np.ceil(2 * half_extent / INDEX_CELL))
        starts = np.zeros(size * size + 1, np.int32)
        ordered = np.empty_like(points)
        count = _sort(points, np.float32(half_extent), size, starts, ordered)
        return cls(ordered[:count], starts, half_extent, size)


def compute_roi_features(
    boxes: NDArray[np.float32], index: PointIndex
) -> tuple[NDArray[np.float32], ...]:
    """Grid features, grid positions, extents and profiles of proposals (R, 7).

    Points and boxes have heights above the ground. All returned arrays are float32.

    grid (R, 216, 7): the grid point's position in the box's frame, log10(n + 0.5) of the n returns in
    its cell, and their mean position in the box's frame (zeros without returns). Order: along, across,
    height (innermost).

    positions (R, 216, 3): the grid points in the frame of the boxes, metres.

    extents (R, EXTENT_FEATURES): minimum and maximum along, minimum and maximum across, maximum height
    of the returns, in the box's frame as fractions of its size, then log10(n + 0.5). Only returns in the
    grid and more than MIN_RETURN_HEIGHT above the bottom count. For the first two, returns may lie at
    most GRID_MARGIN beside the box, for the next two at most GRID_MARGIN in front of or behind it. Zeros
    without returns.

    profile (R, PROFILE_FEATURES): cosine and sine of the direction to the grid's origin in the box's
    frame; log10(n + 1) of the same returns by LONGITUDINAL_CELLS (for large vehicles up to LENGTH_MARGIN
    beyond the ends), LATERAL_CELLS and VERTICAL_CELLS; then the face: log10(n + 1) of its returns, its
    distance in front of the proposal's end, minimum and maximum across in metres, and maximum z above
    the ground plane. Zeros without returns.
    """
    boxes = np.ascontiguousarray(boxes, np.float32)
    grid = np.zeros((len(boxes), GRID**3, 7), np.float32)
    positions = np.empty((len(boxes), GRID**3, 3), np.float32)
    extents = np.zeros((len(boxes), EXTENT_FEATURES), np.float32)
    profile = np.zeros((len(boxes), PROFILE_FEATURES), np.float32)
    half_extent = np.float32(index.half_extent)
    _compute(
        boxes,
        index.points,
        index.starts,
        half_extent,
        index.size,
        grid,
        positions,
        extents,
        profile,
    )
    return grid, positions, extents, profile


@njit(nogil=True)
def _sort(points, half_extent, size, starts, ordered):  # type: ignore[no-untyped-def]
    cells = np.empty(len(points), np.int32)
    for i in range(len(points)):
        column = int(np.floor((points[i, 0] + half_extent) / INDEX_CELL))
        row = int(np.floor((points[i, 1] + half_extent) / INDEX_CELL))
        inside = 0 <= column < size and 0 <= row < size
        cells[i] = row * size + column if inside else -1
        if inside:
            starts[cells[i] + 1] += 1
    for k in range(size * size):
        starts[k + 1] += starts[k]
    following = starts[:-1].copy()
    for i in range(len(points)):
        if cells[i] >= 0:
            ordered[following[cells[i]]] = points[i]
            following[cells[i]] += 1
    return starts[size * size]


@njit(nogil=True)
def _compute(  # type: ignore[no-untyped-def]
    boxes, points, starts, half_extent, size, grid, positions, extents, profile
):
    """Fill the four arrays, see compute_roi_features."""
    stack = np.empty((256, 3), np.float32)  # returns that the face is searched in
    for r in range(len(boxes)):
        b, f, ends, line = boxes[r], grid[r], extents[r], profile[r]
        ends[0::2], ends[1::2] = 1.0, -1.0  # no returns yet: minimum above maximum
        ends[4], within = -1.0, 0
        c, s = np.cos(b[6]), np.sin(b[6])
        side = np.empty(3, np.float32)
        for k in range(3):
            side[k] = b[3 + k] * GRID_SCALE + 2 * GRID_MARGIN
        _place_grid_points(b, c, s, side, f, positions[r])
        distance = max(np.hypot(b[0], b[1]), MIN_SIZE)
        line[0], line[1] = -(c * b[0] + s * b[1]) / distance, (s * b[0] - c * b[1]) / distance
        half = 0.5 * side[0] + (LENGTH_MARGIN if b[3] > CAR_LENGTH else 0.0)
        query_x = abs(c) * half + 0.5 * abs(s) * side[1]
        query_y = abs(s) * half + 0.5 * abs(c) * side[1]
        # Sign of the direction along the box that points to the sensor.
        towards, kept = np.float32(1.0 if line[0] >= 0.0 else -1.0), 0
        first_row = max(int(np.floor((b[1] - query_y + half_extent) / INDEX_CELL)), 0)
        last_row = min(int(np.floor((b[1] + query_y + half_extent) / INDEX_CELL)), size - 1)
        first = max(int(np.floor((b[0] - query_x + half_extent) / INDEX_CELL)), 0)
        last = min(int(np.floor((b[0] + query_x + half_extent) / INDEX_CELL)), size - 1)
        for row in range(first_row, last_row + 1):
            if last < first:
                break
            for i in range(starts[row * size + first], starts[row * size + last + 1]):
                dx, dy, dz = points[i, 0] - b[0], points[i, 1] - b[1], points[i, 2] - b[2]
                x, y = c * dx + s * dy, c * dy - s * dx
                if abs(x) > half or abs(y) > 0.5 * side[1]:
                    continue
                above_ground = dz > MIN_RETURN_HEIGHT - 0.5 * b[5]
                if above_ground:
                    _add_to_profile(line, x, y, points[i, 2], b)
                    if towards * x < 0.5 * b[3] + FACE_BEYOND:
                        if kept == len(stack):
                            stack = np.concatenate((stack, np.empty_like(stack)))
                        stack[kept, 0], stack[kept, 1] = towards * x - 0.5 * b[3], y
                        stack[kept, 2] = points[i, 2]
                        kept += 1
                column = int(np.floor((x / side[0] + 0.5) * GRID))
                across = int(np.floor((y / side[1] + 0.5) * GRID))
                level = int(np.floor((dz / side[2] + 0.5) * GRID))
                if not (0 <= column < GRID and 0 <= across < GRID and 0 <= level < GRID):
                    continue
                q = (column * GRID + across) * GRID + level
                f[q, 3] += 1
                f[q, 4] += x
                f[q, 5] += y
                f[q, 6] += dz
                if above_ground:
                    within += 1
                    _add_to_extents(ends, x, y, dz, b)
        _compute_face(stack[:kept], line[PROFILE_FEATURES - FACE_FEATURES :])
        _normalise(f, ends, within, line)


@njit(nogil=True)
def _place_grid_points(b, c, s, side, f, positions):  # type: ignore[no-untyped-def]
    """Fill the positions of a box's grid points in its own frame (f) and in the frame of the boxes."""
    for q in range(GRID**3):
        x = ((q // (GRID * GRID)) + 0.5) / GRID - 0.5
        y = ((q // GRID) % GRID + 0.5) / GRID - 0.5
        z = (q % GRID + 0.5) / GRID - 0.5
        x, y, z = x * side[0], y * side[1], z * side[2]
        f[q, 0], f[q, 1], f[q, 2] = x, y, z
        positions[q, 0] = b[0] + c * x - s * y
        positions[q, 1] = b[1] + s * x + c * y
        positions[q, 2] = b[2] + z


@njit(nogil=True)
def _normalise(f, ends, within, line):  # type: ignore[no-untyped-def]
    """Turn sums and counts into means and logarithms. within: number of returns in the extents."""
    for k in range(2, PROFILE_FEATURES - FACE_FEATURES):
        line[k] = np.log10(line[k] + 1.0)
    for q in range(GRID**3):
        n = f[q, 3]
        if n > 0:
            for k in range(4, 7):
                f[q, k] /= n
        f[q, 3] = np.log10(n + 0.5)
    for k in range(0, 4, 2):
        if ends[k] > ends[k + 1]:
            ends[k] = ends[k + 1] = 0.0
    ends[4] = ends[4] if within else 0.0
    ends[5] = np.log10(within + 0.5)


@njit(nogil=True)
def _add_to_extents(ends, x, y, z, box):  # type: ignore[no-untyped-def]
    """Extend a proposal's extents by one return.

    A return beside the box does not change the extents along it, one in front of it or behind it does
    not change those across it.
    """
    along, across = x / max(box[3], MIN_SIZE), y / max(box[4], MIN_SIZE)
    if abs(y) < 0.5 * box[4] + GRID_MARGIN:
        ends[0], ends[1] = min(ends[0], along), max(ends[1], along)
    if abs(x) < 0.5 * box[3] + GRID_MARGIN:
        ends[2], ends[3] = min(ends[2], across), max(ends[3], across)
    ends[4] = max(ends[4], z / max(box[5], MIN_SIZE))


@njit(nogil=True)
def _add_to_profile(line, x, y, height, box):  # type: ignore[no-untyped-def]
    """Add one return to the histograms of a proposal."""
    within_x, within_y = abs(x) < 0.5 * box[3] + GRID_MARGIN, abs(y) < 0.5 * box[4] + GRID_MARGIN
    k = int(np.floor(x / LONGITUDINAL_CELL)) + LONGITUDINAL_CELLS // 2
    if within_y and 0 <= k < LONGITUDINAL_CELLS:
        line[2 + k] += 1.0
    k = int(np.floor(y / LATERAL_CELL)) + LATERAL_CELLS // 2
    if within_x and 0 <= k < LATERAL_CELLS:
        line[2 + LONGITUDINAL_CELLS + k] += 1.0
    k = int(np.floor((height - VERTICAL_MIN) / VERTICAL_CELL))
    if within_x and within_y and 0 <= k < VERTICAL_CELLS:
        line[2 + LONGITUDINAL_CELLS + LATERAL_CELLS + k] += 1.0


@njit(nogil=True)
def _compute_face(returns, face):  # type: ignore[no-untyped-def]
    """Fill the FACE_FEATURES of a proposal.

    returns: (n, 3), distance outwards from the proposal's end, position across, z; metres.
    """
    if not len(returns):
        return
    innermost = returns[:, 0].min()
    counts = np.zeros(int((returns[:, 0].max() - innermost) / FACE_BIN) + 1, np.int32)
    for i in range(len(returns)):
        counts[int((returns[i, 0] - innermost) / FACE_BIN)] += 1
    cell, in_front = len(counts) - 1, counts[-1]
    while in_front <= FACE_OUTLIERS * len(returns):
        cell -= 1
        in_front += counts[cell]
    front = innermost + (cell + 0.5) * FACE_BIN
    face[1], n = front, 0
    for i in range(len(returns)):
        if front - FACE_DEPTH < returns[i, 0] < front + FACE_AHEAD:
            face[2] = min(face[2], returns[i, 1]) if n else returns[i, 1]
            face[3] = max(face[3], returns[i, 1]) if n else returns[i, 1]
            face[4] = max(face[4], returns[i, 2]) if n else returns[i, 2]
            n += 1
    face[0] = np.log10(n + 1.0)
