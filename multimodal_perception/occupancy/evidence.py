"""Evidence of each cell around the vehicle, kept while it drives (Pagac et al. 1998).

A cell carries a Dempster-Shafer mass function over {free, occupied}: mass for free, for occupied, for
either (unknown), and mass in contradiction (conflict). The four sum to one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.occupancy.cells import Cells

Rule = Literal["yager", "dempster", "log_odds"]
RULES: dict[str, int] = {"yager": 0, "dempster": 1, "log_odds": 2}
Layer = NDArray[np.float32]
# Cells are counted from odom's origin; further away float64 metres still hold a micrometre.
FARTHEST_M = 1e8
# The log-odds of a cell stay within logit(0.018) = -4 and 4 (clamping, Hornung et al. 2013, eq. 4).
LEAST = np.float32(0.018)


@dataclass(frozen=True)
class GridConfig:
    """How evidence is combined and how long it lasts.

    rule: Combines a source with the cell; yager keeps contradiction as conflict, dempster
    normalises it away, log_odds is the Bayesian grid. half_life: of evidence that nothing renews.
    moving_half_life: of evidence in contradiction and of cells that a moving object has left.
    most_speed: beyond which odometry has jumped. most_turn_rate: beyond which it has, too.
    """

    rule: Rule = "yager"
    half_life: float = field(default=3.0, metadata={"min": 0.05, "max": 600.0, "unit": "s"})
    moving_half_life: float = field(default=0.2, metadata={"min": 0.01, "max": 60.0, "unit": "s"})
    most_speed: float = field(default=70.0, metadata={"min": 1.0, "max": 400.0, "unit": "m/s"})
    most_turn_rate: float = field(default=4.0, metadata={"min": 0.1, "max": 50.0, "unit": "rad/s"})


class EvidentialGrid:
    """Masses of a square of cells, fixed to odom's axes and shifted by whole cells.

    free, occupied, conflict: (size, size) float32; row is y, column is x, along odom's axes while
    there is odometry and along base_link's without it. counts: why evidence was forgotten or a pose
    not used, by reason.
    """

    def __init__(self, size: int, resolution: float, config: GridConfig | None = None) -> None:
        self.size, self.resolution = size, resolution
        self.config = config or GridConfig()
        self.counts: Counter[str] = Counter()
        self.free, self.occupied, self.conflict = (
            np.zeros((size, size), np.float32) for _ in range(3)
        )
        self.cells = Cells.around_base(size, resolution)
        self.elapsed_s = 0.0
        self._stamp_ns: int | None = None
        self._pose: NDArray[np.float64] | None = None
        self._corner = (0, 0)

    def unknown(self) -> Layer:
        """Mass (size, size) float32 that nothing was said about."""
        rest = np.float32(1.0) - self.free - self.occupied - self.conflict
        return np.maximum(rest, np.float32(0.0))

    def clear(self) -> None:
        """Forget all evidence."""
        for layer in (self.free, self.occupied, self.conflict):
            layer.fill(0)

    def advance(self, stamp_ns: int, odom_from_base: NDArray[np.float64] | None) -> Cells:
        """Shift to the vehicle's new place and let the evidence age. Returns where the cells lie.

        Forgets all, and counts why, when time goes back (time_back) or the pose moves faster than
        the limits (odometry_jump). Without a pose, or with one that cannot be (bad_pose,
        outside_map), nobody knows where the evidence went: it is forgotten as well.
        """
        earlier = self._stamp_ns
        if earlier is not None and stamp_ns < earlier:
            self.counts["time_back"] += 1
            earlier = self._pose = None
        self.elapsed_s = 0.0 if earlier is None else (stamp_ns - earlier) / NANOSECONDS
        self._stamp_ns = stamp_ns
        pose = self._usable(odom_from_base)
        if pose is not None and self._pose is not None:
            limits = self.config.most_speed, self.config.most_turn_rate
            if poses.jumped(self._pose, pose, self.elapsed_s, *limits):
                self.counts["odometry_jump"] += 1
                self._pose = None
        if pose is None or self._pose is None:
            self.clear()
        else:
            self._age()
        self._place(pose)
        self._pose = pose
        return self.cells

    def combine(
        self, free: Layer, occupied: Layer, window: tuple[int, int, int, int] | None = None
    ) -> None:
        """Take in one source of evidence by the configured rule.

        free, occupied: (size, size) float32 masses of the source, the rest unknown; a cell with
        none of both is not changed. NaN and negative masses count as none; more than one in all is
        scaled to one. window: first row, last row + 1, first column, last column + 1 to look at.
        """
        shape = (self.size, self.size)
        if free.shape != shape or occupied.shape != shape:
            raise ValueError(f"evidence must be {shape}, got {free.shape} and {occupied.shape}")
        layers = self.free, self.occupied, self.conflict
        window = window or (0, self.size, 0, self.size)
        _combine(*layers, free, occupied, RULES[self.config.rule], *window)

    def discount(self, keep: Layer) -> None:
        """Keep a share (size, size) float32 in [0, 1] of all evidence (Shafer 1976, p. 252)."""
        for layer in (self.free, self.occupied, self.conflict):
            layer *= keep

    def _usable(self, pose: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if pose is None:
            return None
        if not poses.is_rigid(pose):
            self.counts["bad_pose"] += 1
            return None
        if np.abs(pose[:3, 3]).max() > FARTHEST_M:
            self.counts["outside_map"] += 1
            return None
        return np.array(pose, np.float64)

    def _age(self) -> None:
        if self.elapsed_s > 0:
            c = self.config
            keep = 0.5 ** (self.elapsed_s / c.half_life)
            keep_moving = min(keep, 0.5 ** (self.elapsed_s / c.moving_half_life))
            layers = self.free, self.occupied, self.conflict
            _decay(*layers, np.float32(keep), np.float32(keep_moving))

    def _place(self, pose: NDArray[np.float64] | None) -> None:
        if pose is None:
            self.cells = Cells.around_base(self.size, self.resolution)
            return
        # Whole cells of odom; what is left of a cell moves the corner in base_link instead.
        half = self.size // 2
        corner = (
            math.floor(pose[0, 3] / self.resolution) - half,
            math.floor(pose[1, 3] / self.resolution) - half,
        )
        if self._pose is not None:
            columns, rows = corner[0] - self._corner[0], corner[1] - self._corner[1]
            for name in ("free", "occupied", "conflict"):
                setattr(self, name, shifted(getattr(self, name), rows, columns))
        self._corner = corner
        yaw = poses.yaw_of(pose)
        c, s = math.cos(yaw), math.sin(yaw)
        dx = corner[0] * self.resolution - pose[0, 3]
        dy = corner[1] * self.resolution - pose[1, 3]
        self.cells = Cells(self.size, self.resolution, c, -s, c * dx + s * dy, c * dy - s * dx)

    @property
    def located(self) -> bool:
        """Whether the cells are fixed to odom now."""
        return self._pose is not None

    @property
    def corner(self) -> tuple[float, float]:
        """x and y of cell (0, 0)'s lower corner, metres: in odom with odometry, else in base_link."""
        if self._pose is None:
            return self.cells.x, self.cells.y
        return self._corner[0] * self.resolution, self._corner[1] * self.resolution


def shifted(layer: Layer, rows: int, columns: int) -> Layer:
    """The layer seen from `rows` further up and `columns` further right; new cells hold zero."""
    if rows == 0 and columns == 0:
        return layer
    result = np.zeros_like(layer)
    size_y, size_x = layer.shape
    if abs(rows) < size_y and abs(columns) < size_x:
        up, right = max(rows, 0), max(columns, 0)
        down, left = max(-rows, 0), max(-columns, 0)
        kept = layer[up : size_y - down, right : size_x - left]
        result[down : down + kept.shape[0], left : left + kept.shape[1]] = kept
    return result


@numba.njit(cache=True, nogil=True)
def _decay(free, occupied, conflict, keep, keep_moving):  # type: ignore[no-untyped-def]
    # Contradiction in a cell is mostly motion through it (Moras et al. 2011): it ages faster.
    f, o, c = free.reshape(-1), occupied.reshape(-1), conflict.reshape(-1)
    for i in range(len(f)):
        share = keep + c[i] * (keep_moving - keep)
        f[i] *= share
        o[i] *= share
        c[i] *= share


@numba.njit(cache=True, nogil=True, inline="always")
def _yager(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Yager 1987, eq. 8: contradiction adds to ignorance.

    What ignorance came from contradiction, and has not been resolved since, stays apart as conflict.
    """
    one = np.float32(1.0)
    u = max(one - f - o - c, np.float32(0.0))
    v = one - g - p
    return f * (one - p) + (u + c) * g, o * (one - g) + (u + c) * p, f * p + o * g + c * v


@numba.njit(cache=True, nogil=True, inline="always")
def _dempster(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Dempster 1967, eq. 2.7: the joint masses without the contradiction, scaled to one."""
    one, zero = np.float32(1.0), np.float32(0.0)
    u = max(one - f - o, zero)
    left = one - f * p - o * g
    # Of two sources that contradict each other fully nothing is left to scale: ignorance.
    scale = one / left if left > np.float32(1e-4) else zero
    return (f * (one - p) + u * g) * scale, (o * (one - g) + u * p) * scale, zero


@numba.njit(cache=True, nogil=True, inline="always")
def _log_odds(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Moravec and Elfes 1985 in odds: the log-odds of the pignistic probabilities add up."""
    one, zero, half = np.float32(1.0), np.float32(0.0), np.float32(0.5)
    a, b = half * (one + o - f), half * (one + p - g)
    b = min(max(b, LEAST), one - LEAST)
    a = a * b / (a * b + (one - a) * (one - b))
    a = min(max(a, LEAST), one - LEAST)
    return max(one - a - a, zero), max(a + a - one, zero), zero


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _combine(  # type: ignore[no-untyped-def]
    free, occupied, conflict, source_free, source_occupied, rule, top, bottom, left, right
):
    one, zero = np.float32(1.0), np.float32(0.0)
    for i in range(top, bottom):
        for j in range(left, right):
            g, p = source_free[i, j], source_occupied[i, j]
            # Not max(g, 0): NaN has to end as 0.
            g = min(g, one) if g > zero else zero
            p = min(p, one) if p > zero else zero
            if g + p == zero:
                continue
            if g + p > one:
                scale = one / (g + p)
                g, p = g * scale, p * scale
            f, o, c = free[i, j], occupied[i, j], conflict[i, j]
            if rule == 0:
                f, o, c = _yager(f, o, c, g, p)
            elif rule == 1:
                f, o, c = _dempster(f, o, c, g, p)
            else:
                f, o, c = _log_odds(f, o, c, g, p)
            total = f + o + c
            scale = one / total if total > one else one
            free[i, j], occupied[i, j], conflict[i, j] = f * scale, o * scale, c * scale
