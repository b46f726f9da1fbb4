"""An occupancy grid as others read it: percent of plausibility, single layers, classes, a coarse map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.cells import Cells
from multimodal_perception.occupancy.footprints import FootprintModel
from multimodal_perception.perception import OccupancyGrid

Percent = NDArray[np.int8]
# Classes of the semantic layer, by number; an occupied cell that nothing names is an obstacle.
SEMANTIC_LAYER = ("free", "obstacle", "kerb", "wall", "pole", "vehicle", "person")
LAYERS = ("free", "occupied", "unknown", "conflict", "semantic")
UNKNOWN_CELL = -1
CLASS_OF_BOX = {
    "car": "vehicle",
    "van": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "pedestrian": "person",
    "cyclist": "person",
    "cone": "pole",
    "barrier": "wall",
}


@dataclass(frozen=True)
class PercentConfig:
    """How masses become the percent of nav_msgs/OccupancyGrid.

    scale: stretched maps plausibility from free_at to occupied_at onto 0 to 100, plain leaves it as it
    is, trinary gives 0, 100 and unknown alone (as Nav2's map_server has scale and trinary).
    occupied_at: plausibility of occupied from which a cell is 100. free_at: up to which it is 0.
    unknown_above: mass of unknown from which a cell is -1.
    """

    scale: Literal["stretched", "plain", "trinary"] = "stretched"
    occupied_at: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    free_at: float = field(default=0.45, metadata={"min": 0.0, "max": 1.0})
    unknown_above: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if not self.free_at < self.occupied_at:
            raise ValueError("free_at must be below occupied_at")


def percent(grid: OccupancyGrid, config: PercentConfig | None = None) -> Percent:
    """Percent (rows, columns) int8: plausibility of occupied (Shafer 1976, p. 43), -1 unknown.

    Plausibility is one less the mass of free: what is in contradiction counts as occupied.
    """
    c = config or PercentConfig()
    plausible = 1.0 - grid.free
    if c.scale != "plain":
        plausible = (plausible - np.float32(c.free_at)) / np.float32(c.occupied_at - c.free_at)
    result = np.rint(100 * np.clip(plausible, 0.0, 1.0)).astype(np.int8)
    if c.scale == "trinary":
        result[(result > 0) & (result < 100)] = UNKNOWN_CELL
    result[grid.unknown() > c.unknown_above] = UNKNOWN_CELL
    return result


def layer_percent(grid: OccupancyGrid, name: str) -> Percent:
    """Mass of one layer (rows, columns) int8 in percent: free, occupied, unknown or conflict."""
    if name == "unknown":
        mass = grid.unknown()
    elif name == "conflict":
        mass = np.zeros_like(grid.free) if grid.conflict is None else grid.conflict
    else:
        mass = {"free": grid.free, "occupied": grid.occupied}[name]
    return np.rint(100 * np.clip(mass, 0.0, 1.0)).astype(np.int8)


def semantic_percent(grid: OccupancyGrid, boxes: Boxes3D | None = None) -> Percent:
    """Number of each cell's class (rows, columns) int8, index into SEMANTIC_LAYER; -1 unknown.

    The grid's own classes where it has some, then those of boxes, in the grid's frame, on top.
    """
    result = np.full(grid.free.shape, UNKNOWN_CELL, np.int8)
    result[grid.free > 0.5] = SEMANTIC_LAYER.index("free")
    held = grid.occupied > 0.5
    result[held] = SEMANTIC_LAYER.index("obstacle")
    if grid.semantic is not None:
        named = grid.semantic > 0
        result[held & named] = grid.semantic[held & named]
    if boxes is None or not len(boxes) or grid.free.shape[0] != grid.free.shape[1]:
        return result
    cells = Cells(grid.free.shape[0], grid.resolution, 1.0, 0.0, *grid.origin)
    model = FootprintModel()
    boxes = model.usable(boxes, grid.frame_id)
    for label in np.unique(boxes.labels):
        name = CLASS_OF_BOX.get(boxes.class_names[label], "obstacle")
        inside = model.occupied(boxes.select(boxes.labels == label), cells) > 0
        result[inside & (result != 0)] = SEMANTIC_LAYER.index(name)
    return result


def coarser(grid: OccupancyGrid, factor: int) -> OccupancyGrid:
    """The grid in cells `factor` times as long; what is worst in a cell is all of it.

    Of each block the masses of that cell are kept whose free mass less occupied mass is least among
    those about which something is known. Rows and columns that fill no block are left out.
    """
    if factor == 1:
        return grid
    rows, columns = (n // factor for n in grid.free.shape)
    if not rows or not columns:
        raise ValueError(f"factor {factor} is larger than the grid {grid.free.shape}")

    def blocks(layer: NDArray[np.float32]) -> NDArray[np.float32]:
        cut = layer[: rows * factor, : columns * factor]
        parts = cut.reshape(rows, factor, columns, factor).swapaxes(1, 2)
        return parts.reshape(rows, columns, factor * factor)

    free, occupied = blocks(grid.free), blocks(grid.occupied)
    conflict = blocks(np.zeros_like(grid.free) if grid.conflict is None else grid.conflict)
    known = free + occupied + conflict > 0.3
    worst = np.where(known, free - occupied, np.float32(2.0)).argmin(axis=2)[..., None]
    kept = (np.take_along_axis(v, worst, axis=2)[..., 0] for v in (free, occupied, conflict))
    kept_free, kept_occupied, kept_conflict = kept
    return OccupancyGrid(
        grid.stamp_ns,
        grid.frame_id,
        grid.resolution * factor,
        grid.origin,
        kept_free,
        kept_occupied,
        kept_conflict,
    )
