"""What lies in proposals, by a 6 x 6 x 6 grid in each (LoGoNet, Li et al. 2023, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

GRID = 6
# The grid reaches a little over the box: proposals are not exact.
GROWTH, MARGIN = 1.1, 0.15
CELL = 0.8
# How far returns reach in a proposal: to both ends along, both ends across, up; and how many there are.
REACH = 6
# The outline of a proposal: where the sensor is, and returns along, across and up by cells in metres,
# from the proposal's middle, for heights from the ground.
ALONG_CELL, ALONG = 0.5, 32
ACROSS_CELL, ACROSS = 0.08, 40
UP_CELL, UP, UP_LOW = 0.1, 28, 1.2
# The face of a proposal, its end towards the sensor: so many of its returns are nearer, for what juts
# out; it is so deep, ahead of that and behind; so far it may be before the proposal's end. Metres.
JUTTING, FACE_AHEAD, FACE_DEEP, FACE_OUT = 0.1, 0.3, 0.5, 0.75
FACE_CELL, FACE = 0.05, 5
OUTLINE = 2 + ALONG + ACROSS + UP + FACE
# What is longer than a car may be longer than its proposal at either end by so much, metres.
LONGER, CAR = 3.0, 5.0
# What is lower in a proposal may be the ground or a kerb, metres.
LOW = 0.4
# No side of a proposal counts as shorter, metres.
LEAST = 0.05


@dataclass(frozen=True)
class PointIndex:
    """Points sorted into square cells of the ground plane, for quick looks.

    points: (N, 4) float32, sorted. starts: (size * size + 1,) int32. extent: half side, metres.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int32]
    extent: float
    size: int

    @classmethod
    def of(cls, points: NDArray[np.float32], extent: float) -> PointIndex:
        """Sort points (N, 4); those off the square are left out."""
        size = int(np.ceil(2 * extent / CELL))
        starts = np.zeros(size * size + 1, np.int32)
        ordered = np.empty_like(points)
        count = _sort(points, np.float32(extent), size, starts, ordered)
        return cls(ordered[:count], starts, extent, size)


def proposal_grid(boxes: NDArray[np.float32], index: PointIndex) -> tuple[NDArray[np.float32], ...]:
    """Of proposals (R, 7): grid points' features (R, 216, 7), their places (R, 216, 3) in metres, how
    far returns reach (R, 6), and their outlines (R, 107).

    Features: the point's place in the box's frame, log10(n + 0.5) of the n returns in its cell, and
    their mean in the box's frame, zeros where there is none. Order: along, across, height innermost.
    Reach: least and greatest along, least and greatest across, greatest height, in the box's frame as
    shares of its size, of returns over LOW in the grid, no more than MARGIN beside the box (along) or
    before and behind it (across); zeros where there is none; log10(n + 0.5) of those in the grid.
    Outline: cosine and sine of the direction to the grid's origin in the box's frame; log10(n + 1) of
    the same returns by ALONG cells along, to LONGER beyond a large vehicle's ends, by ACROSS cells
    across, and by UP cells above the ground plane z = 0; last the face: log10(n + 1) of its returns, how
    far it is before the proposal's end, least and greatest across, metres, and greatest z above the
    ground plane; zeros where there is none.
    """
    boxes = np.ascontiguousarray(boxes, np.float32)
    features = np.zeros((len(boxes), GRID**3, 7), np.float32)
    places = np.empty((len(boxes), GRID**3, 3), np.float32)
    reach = np.zeros((len(boxes), REACH), np.float32)
    outline = np.zeros((len(boxes), OUTLINE), np.float32)
    extent = np.float32(index.extent)
    _fill(boxes, index.points, index.starts, extent, index.size, features, places, reach, outline)
    return features, places, reach, outline


@numba.njit(cache=True, nogil=True)
def _sort(points, extent, size, starts, ordered):  # type: ignore[no-untyped-def]
    cells = np.empty(len(points), np.int32)
    for i in range(len(points)):
        column = int(np.floor((points[i, 0] + extent) / CELL))
        row = int(np.floor((points[i, 1] + extent) / CELL))
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


@numba.njit(cache=True, nogil=True)
def _fill(boxes, points, starts, extent, size, features, places, reach, outline):  # type: ignore[no-untyped-def]
    stack = np.empty((256, 3), np.float32)
    for r in range(len(boxes)):
        b, f, ends, line = boxes[r], features[r], reach[r], outline[r]
        ends[0::2], ends[1::2] = 1.0, -1.0  # nothing yet
        ends[4], within = -1.0, 0
        c, s = np.cos(b[6]), np.sin(b[6])
        side = np.empty(3, np.float32)
        for k in range(3):
            side[k] = b[3 + k] * GROWTH + 2 * MARGIN
        for q in range(GRID**3):
            x = ((q // (GRID * GRID)) + 0.5) / GRID - 0.5
            y = ((q // GRID) % GRID + 0.5) / GRID - 0.5
            z = (q % GRID + 0.5) / GRID - 0.5
            x, y, z = x * side[0], y * side[1], z * side[2]
            f[q, 0], f[q, 1], f[q, 2] = x, y, z
            places[r, q, 0] = b[0] + c * x - s * y
            places[r, q, 1] = b[1] + s * x + c * y
            places[r, q, 2] = b[2] + z
        away = max(np.hypot(b[0], b[1]), LEAST)
        line[0], line[1] = -(c * b[0] + s * b[1]) / away, (s * b[0] - c * b[1]) / away
        half = 0.5 * side[0] + (LONGER if b[3] > CAR else 0.0)
        reach_x = abs(c) * half + 0.5 * abs(s) * side[1]
        reach_y = abs(s) * half + 0.5 * abs(c) * side[1]
        # Along towards the sensor, of the returns that its face is looked for in.
        towards, kept = np.float32(1.0 if line[0] >= 0.0 else -1.0), 0
        first_row = max(int(np.floor((b[1] - reach_y + extent) / CELL)), 0)
        last_row = min(int(np.floor((b[1] + reach_y + extent) / CELL)), size - 1)
        first = max(int(np.floor((b[0] - reach_x + extent) / CELL)), 0)
        last = min(int(np.floor((b[0] + reach_x + extent) / CELL)), size - 1)
        for row in range(first_row, last_row + 1):
            if last < first:
                break
            for i in range(starts[row * size + first], starts[row * size + last + 1]):
                dx, dy, dz = points[i, 0] - b[0], points[i, 1] - b[1], points[i, 2] - b[2]
                x, y = c * dx + s * dy, c * dy - s * dx
                if abs(x) > half or abs(y) > 0.5 * side[1]:
                    continue
                over = dz > LOW - 0.5 * b[5]
                if over:
                    _draw(line, x, y, points[i, 2], b)
                    if towards * x < 0.5 * b[3] + FACE_OUT:
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
                if over:
                    within += 1
                    _stretch(ends, x, y, dz, b)
        for k in range(2, OUTLINE - FACE):
            line[k] = np.log10(line[k] + 1.0)
        _face(stack[:kept], line[OUTLINE - FACE :])
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


@numba.njit(cache=True, nogil=True)
def _stretch(ends, x, y, z, box):  # type: ignore[no-untyped-def]
    """Reach of a proposal's returns with one more. What lies beside it or before it does not tell where
    it ends."""
    along, across = x / max(box[3], LEAST), y / max(box[4], LEAST)
    if abs(y) < 0.5 * box[4] + MARGIN:
        ends[0], ends[1] = min(ends[0], along), max(ends[1], along)
    if abs(x) < 0.5 * box[3] + MARGIN:
        ends[2], ends[3] = min(ends[2], across), max(ends[3], across)
    ends[4] = max(ends[4], z / max(box[5], LEAST))


@numba.njit(cache=True, nogil=True)
def _draw(line, x, y, height, box):  # type: ignore[no-untyped-def]
    """Outline of a proposal with one more return."""
    within_x, within_y = abs(x) < 0.5 * box[3] + MARGIN, abs(y) < 0.5 * box[4] + MARGIN
    k = int(np.floor(x / ALONG_CELL)) + ALONG // 2
    if within_y and 0 <= k < ALONG:
        line[2 + k] += 1.0
    k = int(np.floor(y / ACROSS_CELL)) + ACROSS // 2
    if within_x and 0 <= k < ACROSS:
        line[2 + ALONG + k] += 1.0
    k = int(np.floor((height - UP_LOW) / UP_CELL))
    if within_x and within_y and 0 <= k < UP:
        line[2 + ALONG + ACROSS + k] += 1.0


@numba.njit(cache=True, nogil=True)
def _face(returns, face):  # type: ignore[no-untyped-def]
    """What the FACE of a proposal is, by returns (n, 3): along from its end on, outwards, across, z."""
    if not len(returns):
        return
    far = returns[:, 0].min()
    counts = np.zeros(int((returns[:, 0].max() - far) / FACE_CELL) + 1, np.int32)
    for i in range(len(returns)):
        counts[int((returns[i, 0] - far) / FACE_CELL)] += 1
    cell, nearer = len(counts) - 1, counts[-1]
    while nearer <= JUTTING * len(returns):
        cell -= 1
        nearer += counts[cell]
    front = far + (cell + 0.5) * FACE_CELL
    face[1], n = front, 0
    for i in range(len(returns)):
        if front - FACE_DEEP < returns[i, 0] < front + FACE_AHEAD:
            face[2] = min(face[2], returns[i, 1]) if n else returns[i, 1]
            face[3] = max(face[3], returns[i, 1]) if n else returns[i, 1]
            face[4] = max(face[4], returns[i, 2]) if n else returns[i, 2]
            n += 1
    face[0] = np.log10(n + 1.0)
