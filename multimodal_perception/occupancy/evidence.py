"""Evidential grid around the vehicle, accumulated while it drives (Pagac et al. 1998).

A cell has a Dempster-Shafer mass function over {free, occupied}: mass of free, of occupied, of either
(unknown), and mass in contradiction (conflict). The four masses sum to one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.kernels import njit
from multimodal_perception.occupancy.cells import GridGeometry

Rule = Literal["yager", "dempster", "log_odds"]
RULES: dict[str, int] = {"yager": 0, "dempster": 1, "log_odds": 2}
Layer = NDArray[np.float32]
# Maximum coordinate of the vehicle in odom, m. Below it, float64 resolves a micrometre.
MAX_POSITION_M = 1e8
# The log-odds of a cell are clamped to logit(0.018) = -4 .. 4 (Hornung et al. 2013, eq. 4).
MIN_PROBABILITY = np.float32(0.018)


@dataclass(frozen=True)
class GridConfig:
    """Parameters of the combination and ageing of evidence.

    Attributes:
        rule: Rule that combines a source with a cell: yager keeps contradiction as conflict, dempster
            normalises it away, log_odds is the Bayesian occupancy grid. Keep yager to see contradictions
            between sensors; use log_odds to compare with common occupancy grids.
        half_life_s: Time after which evidence that is not renewed has lost half of its mass. Increase it
            to keep static obstacles for longer; decrease it in busy environments.
        moving_half_life_s: Half-life of evidence in conflict and of cells that a moving object has left.
            Decrease it if moving objects leave occupied cells behind them.
        max_speed: Speed above which a change of the odometry pose is treated as a jump, which clears the
            grid. Increase it only for vehicles that are faster.
        max_yaw_rate: Yaw rate above which a change of the odometry pose is treated as a jump, which
            clears the grid. Increase it for robots that turn faster on the spot.
    """

    rule: Rule = "yager"
    half_life_s: float = field(
        default=3.0, metadata={"min": 0.05, "max": 600.0, "unit": "s", "dynamic": True}
    )
    moving_half_life_s: float = field(
        default=0.2, metadata={"min": 0.01, "max": 60.0, "unit": "s", "dynamic": True}
    )
    max_speed: float = field(default=70.0, metadata={"min": 1.0, "max": 400.0, "unit": "m/s"})
    max_yaw_rate: float = field(default=4.0, metadata={"min": 0.1, "max": 50.0, "unit": "rad/s"})


class EvidentialGrid:
    """Masses of a square grid that is aligned with odom's axes and follows the vehicle by whole cells.

    free, occupied, conflict: (size, size) float32; the row is y, the column is x, along odom's axes with
    odometry and along base_link's axes without it. counts: cleared grids and rejected poses by reason.
    """

    def __init__(self, size: int, resolution: float, config: GridConfig | None = None) -> None:
        self.size, self.resolution = size, resolution
        self.config = config or GridConfig()
        self.counts: Counter[str] = Counter()
        self.free, self.occupied, self.conflict = (
            np.zeros((size, size), np.float32) for _ in range(3)
        )
        self.cells = GridGeometry.around_base(size, resolution)
        self.elapsed_s = 0.0
        self._stamp_ns: int | None = None
        self._pose: NDArray[np.float64] | None = None
        self._corner = (0, 0)

    def unknown(self) -> Layer:
        """Mass of unknown (size, size) float32."""
        rest = np.float32(1.0) - self.free - self.occupied - self.conflict
        return np.maximum(rest, np.float32(0.0))

    def clear(self) -> None:
        """Set all masses to zero (unknown)."""
        for layer in (self.free, self.occupied, self.conflict):
            layer.fill(0)

    def advance(self, stamp_ns: int, odom_from_base: NDArray[np.float64] | None) -> GridGeometry:
        """Shift the grid to the vehicle's new pose and age the evidence. Returns the cells in base_link.

        odom_from_base: (4, 4), or None without odometry. The grid is cleared, and the reason counted, if
        the stamp goes back (time_back), the pose changes faster than the limits (odometry_jump), or the
        pose is invalid (bad_pose, outside_map). It is also cleared without a pose, as the motion of the
        vehicle is unknown.
        """
        earlier = self._stamp_ns
        if earlier is not None and stamp_ns < earlier:
            self.counts["time_back"] += 1
            earlier = self._pose = None
        self.elapsed_s = 0.0 if earlier is None else (stamp_ns - earlier) / NANOSECONDS_PER_SECOND
        self._stamp_ns = stamp_ns
        pose = self._validated(odom_from_base)
        if pose is not None and self._pose is not None:
            limits = self.config.max_speed, self.config.max_yaw_rate
            if poses.is_odometry_jump(self._pose, pose, self.elapsed_s, *limits):
                self.counts["odometry_jump"] += 1
                self._pose = None
        if pose is None or self._pose is None:
            self.clear()
        else:
            self._age()
        self._move_to(pose)
        self._pose = pose
        return self.cells

    def combine(
        self, free: Layer, occupied: Layer, window: tuple[int, int, int, int] | None = None
    ) -> None:
        """Combine one source of evidence with the grid by the configured rule.

        free, occupied: (size, size) float32 masses of the source; the rest is unknown. A cell where both
        are zero does not change. NaN and negative masses count as zero; a sum above one is scaled to
        one. window: first row, last row + 1, first column, last column + 1 of the cells to combine.
        """
        shape = (self.size, self.size)
        if free.shape != shape or occupied.shape != shape:
            raise ValueError(f"evidence must be {shape}, got {free.shape} and {occupied.shape}")
        layers = self.free, self.occupied, self.conflict
        window = window or (0, self.size, 0, self.size)
        _combine(*layers, free, occupied, RULES[self.config.rule], *window)

    def discount(self, keep: Layer) -> None:
        """Multiply all masses by factors (size, size) float32 in [0, 1] (Shafer 1976, p. 252)."""
        for layer in (self.free, self.occupied, self.conflict):
            layer *= keep

    def _validated(self, pose: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if pose is None:
            return None
        if not poses.is_rigid(pose):
            self.counts["bad_pose"] += 1
            return None
        if np.abs(pose[:3, 3]).max() > MAX_POSITION_M:
            self.counts["outside_map"] += 1
            return None
        return np.array(pose, np.float64)

    def _age(self) -> None:
        if self.elapsed_s > 0:
            c = self.config
            keep = 0.5 ** (self.elapsed_s / c.half_life_s)
            keep_moving = min(keep, 0.5 ** (self.elapsed_s / c.moving_half_life_s))
            layers = self.free, self.occupied, self.conflict
            _decay(*layers, np.float32(keep), np.float32(keep_moving))

    def _move_to(self, pose: NDArray[np.float64] | None) -> None:
        if pose is None:
            self.cells = GridGeometry.around_base(self.size, self.resolution)
            return
        # The grid moves by whole cells in odom; the remainder shifts its corner in base_link.
        half = self.size // 2
        corner = (
            math.floor(pose[0, 3] / self.resolution) - half,
            math.floor(pose[1, 3] / self.resolution) - half,
        )
        if self._pose is not None:
            columns, rows = corner[0] - self._corner[0], corner[1] - self._corner[1]
            for name in ("free", "occupied", "conflict"):
                setattr(self, name, shift_layer(getattr(self, name), rows, columns))
        self._corner = corner
        yaw = poses.to_yaw(pose)
        c, s = math.cos(yaw), math.sin(yaw)
        dx = corner[0] * self.resolution - pose[0, 3]
        dy = corner[1] * self.resolution - pose[1, 3]
        self.cells = GridGeometry(
            self.size, self.resolution, c, -s, c * dx + s * dy, c * dy - s * dx
        )

    @property
    def is_aligned_with_odom(self) -> bool:
        """Whether the cells are aligned with odom (true while there is odometry)."""
        return self._pose is not None

    @property
    def corner(self) -> tuple[float, float]:
        """x and y of the lower corner of cell (0, 0), m: in odom with odometry, else in base_link."""
        if self._pose is None:
            return self.cells.origin_x, self.cells.origin_y
        return self._corner[0] * self.resolution, self._corner[1] * self.resolution


def shift_layer(layer: Layer, rows: int, columns: int) -> Layer:
    """Shift a layer so that cell (rows, columns) becomes cell (0, 0); cells that enter are zero."""
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


@njit(nogil=True)
def _decay(free, occupied, conflict, keep, keep_moving):  # type: ignore[no-untyped-def]
    # Conflict in a cell is mostly caused by motion (Moras et al. 2011), so it ages faster.
    f, o, c = free.reshape(-1), occupied.reshape(-1), conflict.reshape(-1)
    for i in range(len(f)):
        factor = keep + c[i] * (keep_moving - keep)
        f[i] *= factor
        o[i] *= factor
        c[i] *= factor


@njit(nogil=True, inline="always")
def _yager(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Yager 1987, eq. 8: contradiction adds to unknown.

    The part of unknown that comes from contradiction and has not been resolved yet is kept separately,
    as conflict.
    """
    one = np.float32(1.0)
    u = max(one - f - o - c, np.float32(0.0))
    v = one - g - p
    return f * (one - p) + (u + c) * g, o * (one - g) + (u + c) * p, f * p + o * g + c * v


@njit(nogil=True, inline="always")
def _dempster(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Dempster 1967, eq. 2.7: joint masses without the contradiction, normalised to one."""
    one, zero = np.float32(1.0), np.float32(0.0)
    u = max(one - f - o, zero)
    agreeing = one - f * p - o * g
    # Two sources in total contradiction have no agreeing mass; the result is unknown.
    scale = one / agreeing if agreeing > np.float32(1e-4) else zero
    return (f * (one - p) + u * g) * scale, (o * (one - g) + u * p) * scale, zero


@njit(nogil=True, inline="always")
def _log_odds(f, o, c, g, p):  # type: ignore[no-untyped-def]
    """Moravec and Elfes 1985 in odds form: adds the log-odds of the pignistic probabilities."""
    one, zero, half = np.float32(1.0), np.float32(0.0), np.float32(0.5)
    a, b = half * (one + o - f), half * (one + p - g)
    b = min(max(b, MIN_PROBABILITY), one - MIN_PROBABILITY)
    a = a * b / (a * b + (one - a) * (one - b))
    a = min(max(a, MIN_PROBABILITY), one - MIN_PROBABILITY)
    return max(one - a - a, zero), max(a + a - one, zero), zero


@njit(nogil=True, error_model="numpy")
def _combine(  # type: ignore[no-untyped-def]
    free, occupied, conflict, source_free, source_occupied, rule, top, bottom, left, right
):
    one, zero = np.float32(1.0), np.float32(0.0)
    for i in range(top, bottom):
        for j in range(left, right):
            g, p = source_free[i, j], source_occupied[i, j]
            # Not max(g, 0), as NaN must become 0.
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
