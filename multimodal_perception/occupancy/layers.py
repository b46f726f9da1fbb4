"""Conversion of an occupancy grid for publication: percent, single layers, classes, coarse map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.footprints import FootprintModel
from multimodal_perception.perception import OccupancyGrid

Percent = NDArray[np.int8]
# Classes of the semantic layer, by number; an occupied cell without a class is an obstacle.
SEMANTIC_LAYER = ("free", "obstacle", "kerb", "wall", "pole", "vehicle", "person")
LAYERS = ("free", "occupied", "unknown", "conflict", "semantic")
UNKNOWN_CELL = -1
# Sum of the masses of free, occupied and conflict above which a cell is known.
KNOWN_MASS = 0.3
# Metadata of parameters from 0 to 1 that can change while the node runs.
DYNAMIC_FRACTION = {"min": 0.0, "max": 1.0, "dynamic": True}
SEMANTIC_CLASS_OF_BOX = {
    "car": "vehicle",
    "van": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "trailer": "vehicle",
    "pedestrian": "person",
    "cyclist": "person",
    "motorcyclist": "person",
    "cone": "pole",
    "barrier": "wall",
}


@dataclass(frozen=True)
class OccupancyValuesConfig:
    """Conversion of masses to the values of nav_msgs/OccupancyGrid (0 to 100, -1 for unknown).

    Attributes:
        mode: Mapping of the plausibility of occupied to values. `scale` maps the range between both
            thresholds to 0 to 100, `linear` maps 0 to 1 to 0 to 100, `trinary` gives 0, 100 and -1
            only. `scale` and `trinary` are modes of Nav2's map_server. Use trinary for planners
            that expect a binary map.
        occupied_threshold: Plausibility of occupied from which a cell is 100. Increase it if
            uncertain obstacles block the planner.
        free_threshold: Plausibility of occupied up to which a cell is 0. Decrease it to make the
            planner more careful.
        unknown_threshold: Unknown mass above which a cell is -1. Decrease it to mark more cells as
            unknown.
    """

    mode: Literal["scale", "linear", "trinary"] = field(default="scale", metadata={"dynamic": True})
    occupied_threshold: float = field(default=0.7, metadata=DYNAMIC_FRACTION)
    free_threshold: float = field(default=0.45, metadata=DYNAMIC_FRACTION)
    unknown_threshold: float = field(default=0.5, metadata=DYNAMIC_FRACTION)

    def __post_init__(self) -> None:
        if not self.free_threshold < self.occupied_threshold:
            raise ValueError("free_threshold must be below occupied_threshold")


def occupancy_percent(grid: OccupancyGrid, config: OccupancyValuesConfig | None = None) -> Percent:
    """Values (rows, columns) int8: plausibility of occupied in percent (Shafer 1976, p. 43), -1 unknown.

    The plausibility of occupied is one minus the mass of free, so conflict counts as occupied.
    """
    c = config or OccupancyValuesConfig()
    plausible = 1.0 - grid.free
    if c.mode != "linear":
        width = np.float32(c.occupied_threshold - c.free_threshold)
        plausible = (plausible - np.float32(c.free_threshold)) / width
    result = np.rint(100 * np.clip(plausible, 0.0, 1.0)).astype(np.int8)
    if c.mode == "trinary":
        result[(result > 0) & (result < 100)] = UNKNOWN_CELL
    result[grid.unknown() > c.unknown_threshold] = UNKNOWN_CELL
    return result


def layer_percent(grid: OccupancyGrid, name: str) -> Percent:
    """Mass of one layer in percent (rows, columns) int8. name: free, occupied, unknown or conflict."""
    if name == "unknown":
        mass = grid.unknown()
    elif name == "conflict":
        mass = np.zeros_like(grid.free) if grid.conflict is None else grid.conflict
    else:
        mass = {"free": grid.free, "occupied": grid.occupied}[name]
    return np.rint(100 * np.clip(mass, 0.0, 1.0)).astype(np.int8)


def semantic_percent(grid: OccupancyGrid, boxes: Boxes3D | None = None) -> Percent:
    """Class of each cell (rows, columns) int8, an index into SEMANTIC_LAYER; -1 for unknown.

    Classes of the grid are used first; classes of boxes (in the grid's frame) replace them.
    """
    result = np.full(grid.free.shape, UNKNOWN_CELL, np.int8)
    result[grid.free > 0.5] = SEMANTIC_LAYER.index("free")
    occupied = grid.occupied > 0.5
    result[occupied] = SEMANTIC_LAYER.index("obstacle")
    if grid.semantic is not None:
        classified = occupied & (grid.semantic > 0)
        result[classified] = grid.semantic[classified]
    if boxes is None or not len(boxes) or grid.free.shape[0] != grid.free.shape[1]:
        return result
    cells = GridGeometry(grid.free.shape[0], grid.resolution, 1.0, 0.0, *grid.origin)
    model = FootprintModel()
    boxes = model.select_usable(boxes, grid.frame_id)
    for label in np.unique(boxes.labels):
        name = SEMANTIC_CLASS_OF_BOX.get(boxes.class_names[label], "obstacle")
        inside = model.occupied_mass(boxes.select(boxes.labels == label), cells) > 0
        result[inside & (result != 0)] = SEMANTIC_LAYER.index(name)
    return result


def coarsen(grid: OccupancyGrid, factor: int) -> OccupancyGrid:
    """Reduce the resolution of a grid by an integer factor. Each new cell takes the worst of its cells.

    This is the known cell of the block with the smallest difference of free and occupied mass. Rows and
    columns that do not fill a block are dropped.
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
    known = free + occupied + conflict > KNOWN_MASS
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
