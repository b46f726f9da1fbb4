"""Evidential occupancy mapping: fusion of all sources of a frame into the accumulated grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.kernels import njit
from multimodal_perception.occupancy.cells import GridGeometry, cell_at, cell_centre
from multimodal_perception.occupancy.evidence import EvidentialGrid, GridConfig
from multimodal_perception.occupancy.footprints import FootprintConfig, FootprintModel
from multimodal_perception.occupancy.masks import MaskConfig, MaskModel
from multimodal_perception.occupancy.raycast import RaycastConfig, RayCaster
from multimodal_perception.occupancy.ultrasonic import UltrasonicConfig, UltrasonicModel
from multimodal_perception.perception import Level, OccupancyGrid, SegmentationMask, SensorHealth
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import SensorUse, of_modalities

Layer = NDArray[np.float32]


@dataclass(frozen=True)
class ReliabilityConfig:
    """Reliability of each type of source: a factor on its masses (discounting).

    Attributes:
        lidar: Reliability of all LiDARs. Decrease it if your LiDAR returns many false points.
        ultrasonic: Reliability of all ultrasonic sensors. Decrease it if their ranges are often
            wrong, for example because of cross-talk between the sensors.
        camera: Reliability of segmentation masks of visible images. Increase it if the segmentation
            model was trained on images like yours.
        thermal: Reliability of segmentation masks of thermal images. Increase it if the
            segmentation model was trained on thermal images like yours.
        boxes: Reliability of detected boxes. Decrease it if false detections block the path of the
            vehicle.
        near_field: Reliability of the near-field network. Decrease it if the network reports
            obstacles that do not exist in your environment.
        health_warn_factor: Factor for a sensor whose health status is WARN. Decrease it to rely
            less on sensors with a wrong rate or high latency.
        health_error_factor: Factor for a sensor whose health status is ERROR; a sensor with status
            STALE is not used. Set it to 0 to ignore sensors with errors completely.
    """

    lidar: float = field(default=0.98, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    ultrasonic: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    camera: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    thermal: float = field(default=0.6, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    boxes: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    near_field: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    health_warn_factor: float = field(
        default=0.8, metadata={"min": 0.0, "max": 1.0, "dynamic": True}
    )
    health_error_factor: float = field(
        default=0.4, metadata={"min": 0.0, "max": 1.0, "dynamic": True}
    )


@dataclass(frozen=True)
class EvidentialConfig:
    """Parameters of the evidential occupancy mapping.

    Attributes:
        frame: Frame whose axes the published grid is aligned with: base_link or the odometry frame.
            Use odom to avoid the resampling of a rotated grid, if your planner accepts it.
        occlusion_depth: Distance behind a new LiDAR return within which older free evidence is
            cleared if no ray confirms it, as an object that moved there may be that deep. Increase
            it for traffic with long vehicles; set it to 0 to keep all free evidence.
        grid: Combination and ageing of evidence. Change these values to adapt for how long the
            grid keeps obstacles.
        reliability: Reliability of the sources. Lower a value to give a source less weight.
        ultrasonic: Inverse sensor model of the ultrasonic sensors. Change these values to match the
            data sheet of your sensors.
        masks: Inverse sensor model of segmentation masks. Change these values to match the accuracy
            of your camera calibration.
        footprints: Inverse sensor model of detected boxes. Change these values to adapt how
            detections affect the grid.
    """

    frame: Literal["base", "odom"] = "base"
    occlusion_depth: float = field(
        default=3.0, metadata={"min": 0.0, "max": 20.0, "unit": "m", "dynamic": True}
    )
    grid: GridConfig = field(default_factory=GridConfig)
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    ultrasonic: UltrasonicConfig = field(default_factory=UltrasonicConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    footprints: FootprintConfig = field(default_factory=FootprintConfig)


class EvidentialMapper:
    """Evidential occupancy mapper: moves and ages the grid, then combines the sources one by one.

    A missing sensor contributes no evidence (the vacuous mass function). Without odometry, the grid
    contains the evidence of the present frame only.
    """

    uses_masks = True

    def __init__(
        self, config: EvidentialConfig | None = None, raycast: RaycastConfig | None = None
    ) -> None:
        """raycast: size of the grid and inverse sensor model of the LiDARs."""
        self.config = config or EvidentialConfig()
        self.raycast = raycast or RaycastConfig()
        c = self.config
        self.grid = EvidentialGrid(self.raycast.size, self.raycast.resolution, c.grid)
        self._lidar = RayCaster(self.raycast)
        self._ultrasonic = UltrasonicModel(c.ultrasonic)
        self._masks = MaskModel(c.masks)
        self._footprints = FootprintModel(c.footprints)
        self._counts: Counter[str] = Counter()
        self._odom_frame = "odom"

    @property
    def counts(self) -> Counter[str]:
        """Rejected inputs, cleared grids and faulty ultrasonic sensors, by `source.reason`."""
        parts = {
            "grid": self.grid.counts,
            "ultrasonic": self._ultrasonic.counts,
            "masks": self._masks.counts,
            "boxes": self._footprints.counts,
            "near_field": self._counts,
        }
        counts = Counter({f"{p}.{reason}": n for p, c in parts.items() for reason, n in c.items()})
        # Present numbers of sensors, not sums over time.
        if self.silent:
            counts["ultrasonic.silent"] = len(self.silent)
        if self.contradicted:
            counts["ultrasonic.contradicted"] = len(self.contradicted)
        return counts

    @property
    def silent(self) -> frozenset[str]:
        """Ultrasonic sensors that have stopped publishing ranges."""
        return self._ultrasonic.silent

    @property
    def contradicted(self) -> frozenset[str]:
        """Ultrasonic sensors whose ranges have contradicted all other sources for a second."""
        return self._ultrasonic.contradicted

    @property
    def contradictions(self) -> Mapping[str, float]:
        """Free mass of all other sources at each ultrasonic sensor's last echo, 0 to 1, by sensor."""
        return self._ultrasonic.contradictions

    def reset(self) -> None:
        """Delete all evidence of earlier frames."""
        self.grid.clear()

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The LiDARs and ultrasonic sensors of a rig."""
        return SensorUse(of_modalities(rig, Modality.LIDAR, Modality.ULTRASONIC))

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
        thermal sensor. health: by sensor. near_field: masses of a near-field network, in base_frame.
        """
        c, health = self.config, health or {}
        cells = self.grid.advance(frame.stamp_ns, frame.odom_from_base)
        self._odom_frame = frame.odom_frame
        if boxes is not None:
            boxes = self._footprints.select_usable(boxes, frame.base_frame)
            self._decay_moved_cells(boxes, cells)
        if len(cloud.points):
            weights = [self._reliability(n, c.reliability.lidar, health) for n in frame.lidars]
            free, occupied = self._lidar.cast(cloud, cells, np.array(weights))
            depth = round(c.occlusion_depth / cells.resolution)
            for origin in cloud.origins:
                _clear_occluded_free_space(
                    self.grid.free, free, occupied, cells, origin[0], origin[1], depth
                )
            self.grid.combine(free, occupied)
        if near_field is not None:
            self._fuse_external_grid(near_field, frame.base_frame, cells)
        for source in self._masks.evidence(
            frame, masks or {}, cells, cloud, lambda n: self._image_reliability(n, frame, health)
        ):
            self.grid.combine(*source)
        ultrasonic = self._ultrasonic.evidence(
            frame, cells, lambda n: self._reliability(n, c.reliability.ultrasonic, health)
        )
        if ultrasonic is not None:
            # Before the ultrasonic evidence itself is in the grid.
            self._ultrasonic.update_contradictions(self.grid.free, cells)
            self.grid.combine(*ultrasonic)
        if boxes is not None and len(boxes):
            occupied = self._footprints.occupied_mass(boxes, cells, c.reliability.boxes)
            self.grid.combine(np.zeros_like(occupied), occupied)
        result = self._result(frame)
        if near_field is not None and near_field.frame_id == result.frame_id:
            return replace(result, semantic=_resample_classes(near_field, result))
        return result

    def _reliability(self, name: str, of_type: float, health: Mapping[str, SensorHealth]) -> float:
        """Reliability of a sensor: that of its type, lowered by its health and image quality.

        The discount rate is one minus the reliability (Shafer 1976, p. 252).
        """
        r = self.config.reliability
        factors = {
            Level.OK: 1.0,
            Level.WARN: r.health_warn_factor,
            Level.ERROR: r.health_error_factor,
            Level.STALE: 0.0,
        }
        h = health.get(name)
        return of_type if h is None else of_type * factors[h.level] * h.image_quality

    def _image_reliability(
        self, name: str, frame: SensorFrame, health: Mapping[str, SensorHealth]
    ) -> float:
        r = self.config.reliability
        of_type = r.thermal if name in frame.thermals else r.camera
        return self._reliability(name, of_type, health)

    def _decay_moved_cells(self, boxes: Boxes3D, cells: GridGeometry) -> None:
        """Reduce the evidence of cells that moving boxes have left."""
        if self.grid.elapsed_s > 0:
            keep = 0.5 ** (self.grid.elapsed_s / self.config.grid.moving_half_life_s)
            factors = self._footprints.moved_cells_factor(boxes, cells, keep)
            if factors is not None:
                self.grid.discount(factors)

    def _fuse_external_grid(
        self, source: OccupancyGrid, base_frame: str, cells: GridGeometry
    ) -> None:
        """Resample another grid in base_frame to the cells and combine it."""
        if source.frame_id != base_frame:
            self._counts["wrong_frame"] += 1
            return
        free, occupied = (
            np.zeros((cells.cells_per_side, cells.cells_per_side), np.float32) for _ in range(2)
        )
        reliability = np.float32(self.config.reliability.near_field)
        layers = (np.ascontiguousarray(v, np.float32) for v in (source.free, source.occupied))
        _resample(free, occupied, cells, *layers, *source.origin, source.resolution, reliability)
        self.grid.combine(free, occupied)

    def odom_grid(self, stamp_ns: int) -> OccupancyGrid | None:
        """The present grid aligned with odom's axes; None without odometry."""
        if not self.grid.is_aligned_with_odom:
            return None
        grid = self.grid
        layers = grid.free.copy(), grid.occupied.copy(), grid.conflict.copy()
        return OccupancyGrid(stamp_ns, self._odom_frame, grid.resolution, grid.corner, *layers)

    def _result(self, frame: SensorFrame) -> OccupancyGrid:
        c, grid, cells = self.config, self.grid, self.grid.cells
        if c.frame == "odom" and (odom_grid := self.odom_grid(frame.stamp_ns)) is not None:
            return odom_grid
        origin = cells.origin_x, cells.origin_y
        layers = grid.free, grid.occupied, grid.conflict
        if abs(cells.sin) * cells.cells_per_side > 0.05 or cells.cos < 0:
            origin = (-self.raycast.half_extent, -self.raycast.half_extent)
            layers = resample_to_base_axes(layers, cells, *origin)
        else:
            # Copies, as the grid changes with the next frame while others still read this one.
            layers = grid.free.copy(), grid.occupied.copy(), grid.conflict.copy()
        return OccupancyGrid(frame.stamp_ns, frame.base_frame, cells.resolution, origin, *layers)


def _resample_classes(source: OccupancyGrid, grid: OccupancyGrid) -> NDArray[np.uint8] | None:
    """Classes of a source grid, written into the cells of `grid` that contain its cell centres.

    Both grids are in the same frame. None if the source has no classes.
    """
    if source.semantic is None:
        return None
    rows, columns = np.nonzero(source.semantic)
    centres = (
        source.resolution * (np.stack([columns, rows]) + 0.5) + np.array(source.origin)[:, None]
    )
    j, i = np.floor((centres - np.array(grid.origin)[:, None]) / grid.resolution).astype(np.int64)
    size_y, size_x = grid.free.shape
    inside = (i >= 0) & (i < size_y) & (j >= 0) & (j < size_x)
    result = np.zeros(grid.free.shape, np.uint8)
    result[i[inside], j[inside]] = source.semantic[rows[inside], columns[inside]]
    return result


def resample_to_base_axes(
    layers: tuple[Layer, Layer, Layer], cells: GridGeometry, left: float, bottom: float
) -> tuple[Layer, Layer, Layer]:
    """Resample free, occupied and conflict (size, size) of cells to a grid along base_link's axes.

    left, bottom: corner of the result in base_link, m.
    """
    result = np.empty_like(layers[0]), np.empty_like(layers[0]), np.empty_like(layers[0])
    _resample_to_base_axes(*result, *layers, cells, left, bottom)
    return result


@njit(nogil=True)
def _clear_occluded_free_space(  # type: ignore[no-untyped-def]
    memory, free, occupied, cells, x, y, depth
):
    """Clear the accumulated free mass of cells that are occluded within `depth` cells of a return.

    memory: accumulated free mass. free, occupied: masses of the present sweep. x, y: the LiDAR in
    base_link.
    """
    for i in range(cells.cells_per_side):
        for j in range(cells.cells_per_side):
            if memory[i, j] < np.float32(0.05) or free[i, j] > 0 or occupied[i, j] > 0:
                continue
            at_x, at_y = cell_centre(cells, i, j)
            distance = np.sqrt((at_x - x) ** 2 + (at_y - y) ** 2)
            step = cells.resolution / max(distance, cells.resolution)
            for k in range(1, min(depth, int(1.0 / step)) + 1):
                row, column = cell_at(
                    cells, at_x + k * step * (x - at_x), at_y + k * step * (y - at_y)
                )
                if (
                    0 <= row < cells.cells_per_side
                    and 0 <= column < cells.cells_per_side
                    and occupied[row, column] > 0
                ):
                    memory[i, j] = 0.0
                    break


@njit(nogil=True)
def _resample_to_base_axes(  # type: ignore[no-untyped-def]
    free, occupied, conflict, source_free, source_occupied, source_conflict, cells, left, bottom
):
    """Fill cells along base_link's axes from the source cells that contain their centres.

    A rotated source cell may contain no centre. Therefore a source cell that is more occupied than free
    is also copied to the cells that contain the centres of its four quarters. Otherwise thin posts would
    vanish and walls would get gaps when the vehicle rotates.
    """
    size = cells.cells_per_side
    per_cell = np.float32(1.0 / cells.resolution)
    c, s = np.float32(cells.cos), np.float32(cells.sin)
    f, o, n = source_free.reshape(-1), source_occupied.reshape(-1), source_conflict.reshape(-1)
    # Source column and row of the first cell centre, in cells; they are linear along a row.
    half, limit, zero = np.float32(0.5), np.float32(size), np.float32(0.0)
    x = np.float32(left - cells.origin_x) * per_cell + half
    y = np.float32(bottom - cells.origin_y) * per_cell + half
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
                x, y = cell_centre(cells, m - 0.25 + 0.5 * (k // 2), q - 0.25 + 0.5 * (k % 2))
                j, i = int(np.floor((x - left) * per_cell)), int(np.floor((y - bottom) * per_cell))
                inside = 0 <= i < size and 0 <= j < size
                if inside and excess > occupied[i, j] - free[i, j]:
                    free[i, j], occupied[i, j], conflict[i, j] = f[at], o[at], n[at]


@njit(nogil=True)
def _resample(  # type: ignore[no-untyped-def]
    free, occupied, cells, source_free, source_occupied, left, bottom, step, reliability
):
    rows, columns = source_free.shape
    for i in range(cells.cells_per_side):
        for j in range(cells.cells_per_side):
            x, y = cell_centre(cells, i, j)
            column, row = int(np.floor((x - left) / step)), int(np.floor((y - bottom) / step))
            if 0 <= row < rows and 0 <= column < columns:
                free[i, j] = source_free[row, column] * reliability
                occupied[i, j] = source_occupied[row, column] * reliability
