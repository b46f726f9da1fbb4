"""All that a frame says about the ground around the vehicle, fused and kept while it drives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.occupancy.cells import Cells, cell_at, middle_of
from multimodal_perception.occupancy.evidence import EvidentialGrid, GridConfig
from multimodal_perception.occupancy.footprints import FootprintConfig, FootprintModel
from multimodal_perception.occupancy.masks import MaskConfig, MaskModel
from multimodal_perception.occupancy.raycast import RaycastConfig, RayCaster
from multimodal_perception.occupancy.ultrasonic import UltrasonicConfig, UltrasonicModel
from multimodal_perception.perception import Level, OccupancyGrid, SegmentationMask, SensorHealth
from multimodal_perception.pointcloud.ground_segmentation import Cloud

Layer = NDArray[np.float32]


@dataclass(frozen=True)
class ReliabilityConfig:
    """How far each kind of source is believed: the share of its masses that counts.

    lidar: of all LiDARs. ultrasonic: of all ultrasonic sensors. camera: of masks from visible
    images. thermal: of masks from thermal images. boxes: of detected boxes. near_field: of the
    learned near field. warn: factor for a sensor whose health is WARN. error: factor for one whose
    health is ERROR; a STALE one says nothing.
    """

    lidar: float = field(default=0.98, metadata={"min": 0.0, "max": 1.0})
    ultrasonic: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0})
    camera: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    thermal: float = field(default=0.6, metadata={"min": 0.0, "max": 1.0})
    boxes: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0})
    near_field: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0})
    warn: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0})
    error: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})


@dataclass(frozen=True)
class EvidentialConfig:
    """Parameters of the evidential occupancy.

    frame: whose axes the grid comes out along; odom needs no turning of cells. hidden: how far
    behind a LiDAR return earlier free evidence is forgotten that no ray renews, as what has moved
    there is as deep. odom_frame: its name. grid: how evidence is combined and ages. reliability: of the
    sources. ultrasonic: their inverse model. masks: their inverse model. footprints: inverse model of
    boxes.
    """

    frame: Literal["base", "odom"] = "base"
    hidden: float = field(default=3.0, metadata={"min": 0.0, "max": 20.0, "unit": "m"})
    odom_frame: str = "odom"
    grid: GridConfig = field(default_factory=GridConfig)
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    ultrasonic: UltrasonicConfig = field(default_factory=UltrasonicConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    footprints: FootprintConfig = field(default_factory=FootprintConfig)


class EvidentialMapper:
    """Frames to evidential occupancy: shift and age, then one source after the other.

    A sensor that is missing contributes nothing (the vacuous mass). Without odometry the grid holds
    one frame's evidence alone.
    """

    def __init__(
        self, config: EvidentialConfig | None = None, raycast: RaycastConfig | None = None
    ) -> None:
        """raycast: size of the grid, and the inverse model of LiDARs."""
        self.config = config or EvidentialConfig()
        self.raycast = raycast or RaycastConfig()
        c = self.config
        self.grid = EvidentialGrid(self.raycast.size, self.raycast.resolution, c.grid)
        self._lidar = RayCaster(self.raycast)
        self._ultrasonic = UltrasonicModel(c.ultrasonic)
        self._masks = MaskModel(c.masks)
        self._footprints = FootprintModel(c.footprints)
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """What was dropped, cleared or not believed, by `source.reason`."""
        parts = {
            "grid": self.grid.counts,
            "ultrasonic": self._ultrasonic.counts,
            "masks": self._masks.counts,
            "boxes": self._footprints.counts,
            "near_field": self._counts,
        }
        return Counter({f"{p}.{reason}": n for p, c in parts.items() for reason, n in c.items()})

    @property
    def silent(self) -> frozenset[str]:
        """Ultrasonic sensors that have spoken and then fell silent."""
        return self._ultrasonic.silent

    @property
    def contradicted(self) -> frozenset[str]:
        """Ultrasonic sensors whose echoes everyone else has called free for a second."""
        return self._ultrasonic.contradicted

    @property
    def contradictions(self) -> Mapping[str, float]:
        """Share of each ultrasonic's last echo that everyone else calls free, by sensor."""
        return self._ultrasonic.contradictions

    def update(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        *,
        boxes: Boxes3D | None = None,
        masks: Mapping[str, SegmentationMask] | None = None,
        health: Mapping[str, SensorHealth] | None = None,
        near_field: OccupancyGrid | None = None,
    ) -> OccupancyGrid:
        """The grid after one frame, at its stamp.

        boxes: in base_frame at the frame's stamp, velocities over ground. masks: by camera or
        thermal sensor. health: by sensor. near_field: another source's masses, in base_frame.
        """
        c, health = self.config, health or {}
        cells = self.grid.advance(frame.stamp_ns, frame.odom_from_base)
        if boxes is not None:
            boxes = self._footprints.usable(boxes, frame.base_frame)
            self._forget_trails(boxes, cells)
        if len(cloud.points):
            trust = [self._trust(n, c.reliability.lidar, health) for n in frame.lidars]
            free, occupied = self._lidar.cast(cloud, cells, np.array(trust))
            for origin in cloud.origins:
                depth = round(c.hidden / cells.resolution)
                _hide(self.grid.free, free, occupied, cells, origin[0], origin[1], depth)
            self.grid.combine(free, occupied)
        if near_field is not None:
            self._take_in(near_field, frame.base_frame, cells)
        for source in self._masks.evidence(
            frame, masks or {}, cells, cloud, lambda n: self._image_trust(n, frame, health)
        ):
            self.grid.combine(*source)
        sound = self._ultrasonic.evidence(
            frame, cells, lambda n: self._trust(n, c.reliability.ultrasonic, health)
        )
        if sound is not None:
            self._ultrasonic.compare(self.grid.free, cells)
            self.grid.combine(*sound)
        if boxes is not None and len(boxes):
            occupied = self._footprints.occupied(boxes, cells, c.reliability.boxes)
            self.grid.combine(np.zeros_like(occupied), occupied)
        result = self._result(frame)
        if near_field is not None and near_field.frame_id == result.frame_id:
            return replace(result, semantic=_classes(near_field, result))
        return result

    def _trust(self, name: str, kind: float, health: Mapping[str, SensorHealth]) -> float:
        """Reliability of a sensor (Shafer 1976, p. 252: the discount rate is one minus it).

        What its health and the trust in its image leave of that of its kind.
        """
        r = self.config.reliability
        factors = {Level.OK: 1.0, Level.WARN: r.warn, Level.ERROR: r.error, Level.STALE: 0.0}
        return kind * factors[h.level] * h.trust if (h := health.get(name)) else kind

    def _image_trust(
        self, name: str, frame: SensorFrame, health: Mapping[str, SensorHealth]
    ) -> float:
        r = self.config.reliability
        return self._trust(name, r.thermal if name in frame.thermals else r.camera, health)

    def _forget_trails(self, boxes: Boxes3D, cells: Cells) -> None:
        if self.grid.elapsed_s > 0:
            keep = 0.5 ** (self.grid.elapsed_s / self.config.grid.moving_half_life)
            left = self._footprints.left_behind(boxes, cells, keep)
            if left is not None:
                self.grid.discount(left)

    def _take_in(self, source: OccupancyGrid, base_frame: str, cells: Cells) -> None:
        if source.frame_id != base_frame:
            self._counts["wrong_frame"] += 1
            return
        free, occupied = (np.zeros((cells.size, cells.size), np.float32) for _ in range(2))
        trust = np.float32(self.config.reliability.near_field)
        layers = (np.ascontiguousarray(v, np.float32) for v in (source.free, source.occupied))
        _resample(free, occupied, cells, *layers, *source.origin, source.resolution, trust)
        self.grid.combine(free, occupied)

    def in_odom(self, stamp_ns: int) -> OccupancyGrid | None:
        """The evidence as it is now, along odom's axes; None without odometry."""
        if not self.grid.located:
            return None
        c, grid = self.config, self.grid
        layers = grid.free.copy(), grid.occupied.copy(), grid.conflict.copy()
        return OccupancyGrid(stamp_ns, c.odom_frame, grid.resolution, grid.corner, *layers)

    def _result(self, frame: SensorFrame) -> OccupancyGrid:
        c, grid, cells = self.config, self.grid, self.grid.cells
        if c.frame == "odom" and (located := self.in_odom(frame.stamp_ns)) is not None:
            return located
        origin = cells.x, cells.y
        layers = grid.free, grid.occupied, grid.conflict
        if abs(cells.sin) * cells.size > 0.05 or cells.cos < 0:
            origin = (-self.raycast.extent, -self.raycast.extent)
            layers = turned(layers, cells, *origin)
        else:
            # Copies: the grid goes on changing while others look at this one.
            layers = grid.free.copy(), grid.occupied.copy(), grid.conflict.copy()
        return OccupancyGrid(frame.stamp_ns, frame.base_frame, cells.resolution, origin, *layers)


def _classes(source: OccupancyGrid, grid: OccupancyGrid) -> NDArray[np.uint8] | None:
    """The classes of another grid in the cells of `grid` that hold its middles, both in one frame."""
    if source.semantic is None:
        return None
    rows, columns = np.nonzero(source.semantic)
    place = source.resolution * (np.stack([columns, rows]) + 0.5) + np.array(source.origin)[:, None]
    j, i = np.floor((place - np.array(grid.origin)[:, None]) / grid.resolution).astype(np.int64)
    size_y, size_x = grid.free.shape
    inside = (i >= 0) & (i < size_y) & (j >= 0) & (j < size_x)
    result = np.zeros(grid.free.shape, np.uint8)
    result[i[inside], j[inside]] = source.semantic[rows[inside], columns[inside]]
    return result


def turned(
    layers: tuple[Layer, Layer, Layer], cells: Cells, left: float, bottom: float
) -> tuple[Layer, Layer, Layer]:
    """Free, occupied and conflict (size, size) of cells, along base_link's axes from a corner on."""
    result = np.empty_like(layers[0]), np.empty_like(layers[0]), np.empty_like(layers[0])
    _turn(*result, *layers, cells, left, bottom)
    return result


@numba.njit(cache=True, nogil=True)
def _hide(memory, free, occupied, cells, x, y, depth):  # type: ignore[no-untyped-def]
    """Forget the free evidence of cells that are hidden within `depth` cells behind a return."""
    for i in range(cells.size):
        for j in range(cells.size):
            if memory[i, j] < np.float32(0.05) or free[i, j] > 0 or occupied[i, j] > 0:
                continue
            at_x, at_y = middle_of(cells, i, j)
            away = np.sqrt((at_x - x) ** 2 + (at_y - y) ** 2)
            step = cells.resolution / max(away, cells.resolution)
            for k in range(1, min(depth, int(1.0 / step)) + 1):
                row, column = cell_at(
                    cells, at_x + k * step * (x - at_x), at_y + k * step * (y - at_y)
                )
                if 0 <= row < cells.size and 0 <= column < cells.size and occupied[row, column] > 0:
                    memory[i, j] = 0.0
                    break


@numba.njit(cache=True, nogil=True)
def _turn(  # type: ignore[no-untyped-def]
    free, occupied, conflict, source_free, source_occupied, source_conflict, cells, left, bottom
):
    """Cells along base_link's axes from those along odom's: the one that holds each one's middle.

    A turned cell may hold no middle; what is rather occupied is taken over wherever one of its own
    quarters lies, so that a post does not vanish and a wall gets no gaps as the vehicle turns.
    """
    size = cells.size
    per_cell = np.float32(1.0 / cells.resolution)
    c, s = np.float32(cells.cos), np.float32(cells.sin)
    f, o, n = source_free.reshape(-1), source_occupied.reshape(-1), source_conflict.reshape(-1)
    # The source's column and row, in cells, of the first middle; they change evenly along a row.
    half, limit, zero = np.float32(0.5), np.float32(size), np.float32(0.0)
    x = np.float32(left - cells.x) * per_cell + half
    y = np.float32(bottom - cells.y) * per_cell + half
    for i in range(size):
        column_0 = c * x + s * (y + np.float32(i))
        row_0 = c * (y + np.float32(i)) - s * x
        for j in range(size):
            column, row = column_0 + c * np.float32(j), row_0 - s * np.float32(j)
            free[i, j] = occupied[i, j] = conflict[i, j] = zero
            if zero <= column < limit and zero <= row < limit:
                at = np.int32(row) * size + np.int32(column)
                free[i, j], occupied[i, j], conflict[i, j] = f[at], o[at], n[at]
    for m in range(size):
        for q in range(size):
            at = m * size + q
            excess = o[at] - f[at]
            if excess <= 0:
                continue
            for k in range(4):
                x, y = middle_of(cells, m - 0.25 + 0.5 * (k // 2), q - 0.25 + 0.5 * (k % 2))
                j, i = int(np.floor((x - left) * per_cell)), int(np.floor((y - bottom) * per_cell))
                inside = 0 <= i < size and 0 <= j < size
                if inside and excess > occupied[i, j] - free[i, j]:
                    free[i, j], occupied[i, j], conflict[i, j] = f[at], o[at], n[at]


@numba.njit(cache=True, nogil=True)
def _resample(  # type: ignore[no-untyped-def]
    free, occupied, cells, source_free, source_occupied, left, bottom, step, trust
):
    rows, columns = source_free.shape
    for i in range(cells.size):
        for j in range(cells.size):
            x, y = middle_of(cells, i, j)
            column, row = int(np.floor((x - left) / step)), int(np.floor((y - bottom) / step))
            if 0 <= row < rows and 0 <= column < columns:
                free[i, j] = source_free[row, column] * trust
                occupied[i, j] = source_occupied[row, column] * trust
